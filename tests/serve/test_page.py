"""The page in a real browser: every control, by its role and name, as somebody who sees or hears it finds it."""

import re
import shutil
import threading

import pytest

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')
pytest.importorskip("playwright", reason="needs pip install playwright")

import uvicorn
from playwright import sync_api as playwright

from razh.serve.app import make_app
from razh.serve.running import bound
from razh.serve.searching import Searcher

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
expect = playwright.expect
expect.set_options(timeout=30_000)  # of a machine that does other things as well


@pytest.fixture(scope="module")
def address(folder, model, decoder):
    """The archive, served by a thread; its address."""
    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(Searcher(folder, model), decoder), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)
    listening.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Return a function that opens the page; nothing may go to another host, or wrong in its scripts."""
    contexts, wrong = [], []

    def go(**options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "blob:")) else None
        )
        page.goto(address)
        expect(page.get_by_role("status").first).to_have_text("1–24 of 31 images")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(open_page):
    return open_page()


def tiles(page):
    return page.get_by_role("list", name="Images").get_by_role("button", name=re.compile("^Search with"))


def status(page):
    return page.locator("#status")


def test_it_shows_all_images_and_every_control_has_a_role_and_a_name(page):
    expect(page).to_have_title("photos – razh")
    expect(page.get_by_role("heading", level=1)).to_contain_text("31 images · 12 bits")
    expect(page.get_by_role("search", name="Search the archive")).to_be_visible()
    expect(page.get_by_role("combobox", name="Attributes to look for")).to_be_enabled()
    expect(page.get_by_label("Search with a photo")).to_be_enabled()
    expect(page.get_by_role("group", name="Filters").get_by_role("combobox")).to_have_count(2)
    expect(tiles(page)).to_have_count(24)
    expect(page.get_by_role("navigation", name="Pages")).to_contain_text("1 of 2")
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select, a, dialog, ul, ol, nav, section')]
        .filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length || e.innerText.trim()))
        .map((e) => e.outerHTML)""")
    assert [html for html in unnamed if "hidden" not in html] == []
    loaded = "[...document.querySelectorAll('.tile img')].slice(0, 5).every((i) => i.complete && i.naturalWidth === 60)"
    page.wait_for_function(loaded)


def test_a_click_searches_on_and_back_goes_back(page):
    page.get_by_role("button", name="Search with a, 4.png").click()
    expect(page.get_by_role("region", name="Query")).to_contain_text("photos/a/4.png")
    expect(status(page)).to_have_text("1–24 of 30 images, nearest first")
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"\d+ bits? of 12 away$"))
    page.reload()  # the address keeps it
    expect(page.get_by_role("region", name="Query")).to_contain_text("photos/a/4.png")
    page.go_back()
    expect(status(page)).to_have_text("1–24 of 31 images")
    expect(page.get_by_role("region", name="Query")).to_be_hidden()
    page.go_forward()
    expect(page.get_by_role("region", name="Query")).to_contain_text("photos/a/4.png")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(status(page)).to_have_text("1–24 of 31 images")


def test_pages_are_turned(page):
    first, last = page.get_by_role("button", name="Previous"), page.get_by_role("button", name="Next")
    expect(first).to_be_disabled()
    last.click()
    expect(status(page)).to_have_text("25–31 of 31 images")
    expect(last).to_be_disabled()
    expect(tiles(page)).to_have_count(7)
    first.click()
    expect(status(page)).to_have_text("1–24 of 31 images")


def test_attributes_are_completed_weighed_and_removed(page):
    words, listed = page.get_by_role("combobox", name="Attributes to look for"), page.get_by_role("listbox")
    words.fill("co he")
    expect(listed.get_by_role("option")).to_have_text(["head colour: red", "head colour: blue"])
    expect(words).to_have_attribute("aria-expanded", "true")
    words.press("ArrowDown")
    expect(listed.get_by_role("option", selected=True)).to_have_text("head colour: blue")
    expect(words).to_have_attribute("aria-activedescendant", "option-1")
    words.press("Enter")
    chips = page.get_by_role("list", name="Attributes asked for")
    expect(chips.get_by_role("listitem")).to_have_count(1)
    expect(status(page)).to_have_text("1–24 of 31 images, nearest first")
    expect(listed).to_be_hidden()
    slider = page.get_by_role("slider", name="Strength of head colour: blue")
    with page.expect_response("**/api/search") as answered:
        slider.fill("0.3")
    assert answered.value.json()["understood"] == "head colour: blue:0.3"
    words.fill("tail")
    listed.get_by_role("option", name="tail length: long").click()
    expect(chips.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("button", name="Remove head colour: blue").click()
    expect(chips.get_by_role("listitem")).to_have_count(1)
    expect(words).to_be_focused()
    words.press("Backspace")
    expect(chips).to_be_hidden()
    words.fill("beak")
    expect(listed).to_contain_text("Enter searches with these words")
    words.press("Escape")
    expect(listed).to_be_hidden()


def test_a_description_is_read_and_what_it_does_not_say_is_said(page):
    words = page.get_by_role("combobox", name="Attributes to look for")
    words.fill("a red head, a long tail, strangely")
    words.press("Enter")
    query = page.get_by_role("region", name="Query")
    expect(query).to_contain_text("a red head, a long tail, strangely")
    expect(query).to_contain_text("Understood as head colour: red, tail length: long; not understood: strangely")
    expect(status(page)).to_contain_text("nearest first")
    page.get_by_role("button", name=re.compile("^Why ")).first.click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).to_have_count(2)
    page.keyboard.press("Escape")
    words.fill("nonsense")
    words.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("none of its words is an attribute")


def test_filters_and_nothing_found(page):
    filters = page.get_by_role("group", name="Filters")
    filters.get_by_label("class").select_option("b")
    expect(status(page)).to_have_text("1–10 of 10 images")
    filters.get_by_label("folder").select_option("photos/c")
    expect(page.get_by_text("No image fits.")).to_be_visible()
    expect(tiles(page)).to_have_count(0)
    page.get_by_role("button", name="Clear the filters").click()
    expect(status(page)).to_have_text("1–24 of 31 images")
    expect(filters.get_by_label("class")).to_have_value("")


def test_photos_are_chosen_dropped_and_pasted(page, folder):
    photo = folder.parent / "photos/b/3.png"
    page.get_by_label("Search with a photo").set_input_files(photo)
    expect(page.get_by_role("region", name="Query")).to_contain_text("3.png")
    expect(status(page)).to_have_text("1–24 of 31 images, nearest first")
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile("0 bits of 12 away"))
    for event, target, field in (("drop", "body", "dataTransfer"), ("paste", "body", "clipboardData")):
        page.get_by_role("button", name="Clear", exact=True).click()
        expect(status(page)).to_have_text("1–24 of 31 images")
        page.evaluate(
            """async ([event, target, field, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
                const init = { bubbles: true, cancelable: true, [field]: data };
                const made = event === "drop" ? new DragEvent(event, init) : new ClipboardEvent(event, init);
                document.querySelector(target).dispatchEvent(made);
            }""",
            [event, target, field, list(photo.read_bytes())],
        )
        expect(page.get_by_role("region", name="Query")).to_contain_text("dropped.png")
        expect(status(page)).to_have_text("1–24 of 31 images, nearest first")


def test_what_is_no_photo_is_said_and_the_way_out_shown(page, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    page.get_by_label("Search with a photo").set_input_files(tmp_path / "text.png")
    expect(page.get_by_role("alert")).to_contain_text("is cut short or not an image; send another")
    page.get_by_role("button", name="Show all images").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(status(page)).to_have_text("1–24 of 31 images")


def test_why_is_shown_for_a_pair_a_description_and_an_image_alone(page):
    asked = page.get_by_role("button", name=re.compile("^Attributes of"))
    asked.first.click()
    dialog = page.get_by_role("dialog", name="What was found in it?")
    expect(dialog).to_be_visible()
    expect(dialog.locator("#why-status")).to_have_text(re.compile("It shows|No attribute is strong in it"))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    tiles(page).nth(2).click()
    expect(status(page)).to_contain_text("nearest first")
    own = page.get_by_role("button", name="Attributes", exact=True)
    own.click()
    expect(dialog.locator("#why-status")).to_have_text(re.compile("It shows|No attribute is strong in it"))
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name=re.compile("^Why ")).first.click()
    dialog = page.get_by_role("dialog", name="Why this image?")
    expect(dialog.locator("#why-status")).to_have_text(re.compile("Both show|No attribute is strong in both"))
    expect(dialog.get_by_role("img", name="the query")).to_be_visible()
    page.keyboard.press("Escape")
    words = page.get_by_role("combobox", name="Attributes to look for")
    words.fill("red")
    words.press("Enter")
    expect(page.get_by_role("slider")).to_have_count(1)
    page.get_by_role("button", name=re.compile("^Why ")).first.click()
    listed = dialog.get_by_role("list", name="Attributes, the strongest first")
    expect(listed.get_by_role("button")).to_have_text([re.compile("head colour: red")])
    expect(listed.get_by_role("button", pressed=True)).to_have_count(1)
    assert dialog.locator("#why-hit canvas").evaluate(
        "(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v)"
    )


def test_keys_are_enough(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the images")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Attributes to look for")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search with a photo")).to_be_focused()
    for _ in range(3):  # two filters, then the images
        page.keyboard.press("Tab")
    expect(tiles(page).first).to_be_focused()
    for key, place in (("ArrowRight", 1), ("End", 23), ("Home", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        expect(tiles(page).nth(place)).to_be_focused()
    columns = page.evaluate(
        "(() => { const t = [...document.querySelectorAll('.tile')].map((e) => e.offsetTop); "
        "return t.filter((y) => y === t[0]).length; })()"
    )
    page.keyboard.press("ArrowDown")
    expect(tiles(page).nth(columns)).to_be_focused()
    page.keyboard.press("w")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(tiles(page).nth(columns)).to_be_focused()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("1–24 of 30 images, nearest first")
    expect(tiles(page).first).to_be_focused()
    page.keyboard.press("Escape")
    expect(status(page)).to_have_text("1–24 of 31 images")


def test_a_phone_shows_all_of_it(open_page):
    page = open_page(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    tiles(page).first.tap()
    expect(status(page)).to_contain_text("nearest first")
    page.get_by_role("button", name=re.compile("^Why ")).first.tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Close").tap()
    small = page.evaluate("""[...document.querySelectorAll('button, select, label.button, input[type=text]')]
        .filter((e) => e.offsetParent).map((e) => [e.textContent.slice(0, 20), e.getBoundingClientRect().height])
        .filter(([, height]) => height < 24)""")
    assert small == []  # what a finger hits, WCAG 2.2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_by_day_and_night(scheme, open_page):
    page = open_page(color_scheme=scheme)
    ratios = page.evaluate("""() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (e) => {
            const colour = getComputedStyle(e).backgroundColor;
            return /, 0\\)$|transparent/.test(colour) ? ground(e.parentElement) : colour;
        };
        return [...document.querySelectorAll('p, span, small, button, select, label, figcaption')]
            .filter((e) => e.offsetParent && e.textContent.trim() && !e.disabled).map((e) => {
                const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
                return (a + 0.05) / (b + 0.05);
            });
    }""")
    assert len(ratios) > 20
    assert min(ratios) >= 4.5  # WCAG AA
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", ground)[0]) < 60) == (scheme == "dark")


def test_waiting_and_a_server_that_is_gone_are_shown(page):
    held = []
    page.route("**/api/search", lambda route: held.append(route))
    page.get_by_role("button", name="Next").click()
    expect(status(page)).to_have_text("Searching…")
    expect(page.get_by_role("list", name="Images")).to_have_attribute("aria-busy", "true")
    held[0].continue_()
    expect(status(page)).to_have_text("25–31 of 31 images")
    expect(page.get_by_role("list", name="Images")).to_have_attribute("aria-busy", "false")
    page.unroute("**/api/search")
    page.route("**/api/search", lambda route: route.abort())
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer. Is razh serve still running?")
    page.unroute("**/api/search")
    page.get_by_role("button", name="Try again").click()
    expect(status(page)).to_have_text("1–24 of 31 images")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_photo_that_was_forgotten_says_so(page):
    page.goto(f"{page.url}#photo=forgotten")
    expect(page.get_by_role("alert")).to_contain_text("This photo is not remembered any more")
    page.get_by_role("button", name="Show all images").click()
    expect(status(page)).to_have_text("1–24 of 31 images")


def test_names_are_shown_as_they_are(page):
    page.route(
        "**/api/search",
        lambda route: route.fulfill(
            json={"numbering": "n", "total": 1, "offset": 0, "query": "", "understood": "", "unknown": [],
                  "hits": [{"row": 0, "path": "<b>x.png", "class": "<img src=x onerror=alert(1)>", "distance": 1}]}
        ),
    )  # fmt: skip
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#results .name")).to_have_text(["<img src=x onerror=alert(1)>"])  # a list: waits for one tile
