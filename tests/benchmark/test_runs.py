import json
import re
import shutil
import statistics

import pytest
import yaml
from PIL import Image

from razh.benchmark.runs import Mean
from razh.benchmark.runs_page import collect, pictures
from razh.benchmark.runs_tables import cost_table, differences, metric_table, spread
from razh.cli.main import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MAP = "test/unseen/map"
HOSTILE = "<script>alert(1)</script>"


def change(folder, **facts):
    """Write other facts into the metrics of a run."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.fixture
def leave_run(tmp_path, leave_result):
    """Return a function that leaves what a finished run leaves; its folder."""

    def leave(name, method="ce", bits=16, seed=0, setting="inductive", pictures=(), data=None, **options):
        folder = tmp_path / "runs" / name
        leave_result(folder, method, bits, seed, fingerprint=setting[0] * 64)
        change(folder, **{"split/setting": setting, "split/protocol": "ps", "model/parameters": 2_500_000})
        config = {
            "seed_everything": seed,
            "run_dir": str(folder),
            "dataset": "birds",
            "method": method,
            "model": {"class_path": f"razh.methods.{method}.M", "init_args": {"bits": bits, "lr": 0.1, **options}},
            "data": {"class_path": "Birds", "init_args": {"root": "data", "setting": setting, **(data or {})}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        rows = [f"{epoch},{0.1 * (epoch + seed)},{3 - epoch}" for epoch in range(3)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,val/map,train/loss", *rows, ""]))
        for picture in pictures:
            (folder / "figures").mkdir(exist_ok=True)
            Image.effect_noise((300, 200), 60).save(folder / "figures" / f"{picture}.png")
        return folder

    return leave


@pytest.fixture
def runs(tmp_path, leave_run):
    """Seven runs of four configurations, two settings, and three that have no figures; the folder."""
    for seed in (0, 1, 3):
        leave_run(f"ce/{seed}", seed=seed, pictures=["retrieval"])
    leave_run("razh", "razh", pictures=["retrieval", "parts"])
    leave_run("razh-long", "razh", bits=32, mix=0.5)
    leave_run("itq", "itq", setting="collection")
    leave_run("ce/3-2", seed=3)  # the same once more
    folder = tmp_path / "runs"
    for name, content in (("killed", '{"state": "running"}'), ("fitted", '{"state": "finished"}')):
        (folder / name).mkdir()
        (folder / name / "status.json").write_text(content)
    (folder / "damaged").mkdir()
    (folder / "damaged" / "metrics.json").write_text('{"test/')
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    return folder


def test_runs_are_grouped_by_setting_and_seeds_are_averaged(runs):
    found = collect([runs, runs / "ce"])
    assert [(group.run.setting, [(one.label, one.bits) for one in group.configurations]) for group in found.groups] == [
        ("inductive", [("ce", 16), ("razh", 16), ("razh, mix=0.5", 32)]),
        ("collection", [("itq", 16)]),
    ]
    ce = found.groups[0].configurations[0]
    values = [json.loads((runs / "ce" / str(seed) / "metrics.json").read_text())[MAP] for seed in (0, 1, 3)]
    assert ce.mean(MAP) == (statistics.fmean(values), statistics.stdev(values), 3)
    table = metric_table(found.groups[0])
    assert table.columns[0] == "mAP unseen"
    assert [block.title for block in table.blocks] == ["16 bits", "32 bits", ""]
    first, second = table.blocks[0].rows
    assert (first.head, first.seeds, first.cells[0].place) == ("razh", "1", 1)
    assert (second.head, second.seeds, second.cells[0].place) == ("ce", "3", 2)
    assert re.fullmatch(r"\.\d{3} ± \.\d{3}", second.cells[0].text)
    assert table.blocks[1].rows[0].cells[0].place == 0  # alone at its length
    [chance] = table.blocks[2].rows
    assert chance.head == "random ranking"
    assert chance.cells[0].text == spread(ce.mean("test/unseen/chance"), 3).partition(" ")[0]


def test_what_is_in_no_table_has_a_reason(runs):
    reasons = {run.folder.name: run.reason for run in collect([runs]).left_out}
    assert reasons.keys() == {"killed", "fitted", "damaged", "3-2"}
    assert reasons["killed"].startswith("not finished: killed")
    assert reasons["fitted"] == "not tested: it was trained alone"
    assert reasons["damaged"].startswith("damaged: ")
    assert reasons["3-2"] == f"the same configuration and seed as {runs / 'ce' / '3'}, which is counted"


def test_other_images_with_the_same_split_are_another_group(tmp_path, leave_run):
    for number in (0, 1):
        leave_run(str(number), data={"data_seed": number, "batch_size": 8 + number})
    groups = collect([tmp_path / "runs"]).groups
    assert [group.title for group in groups] == ["birds · inductive · data_seed=0", "birds · inductive · data_seed=1"]


def test_only_options_that_differ_are_shown(runs, leave_run):
    leave_run("other", lr=0.5)
    found = collect([runs])
    assert "ce, lr=0.5" in [one.label for one in found.configurations]
    told = differences(found.configurations)
    assert [name for name, _ in told.differ] == ["method", "model", "model.bits", "model.lr", "data.setting"]
    assert dict(told.differ)["model.lr"] == ["0.1", "0.5", "0.1", "0.1", "0.1"]
    assert told.some == [("model.mix", ["–", "–", "–", "0.5", "–"])]
    assert told.same == 3  # the data set, its class and its root


def test_figures_that_are_missing_are_dashes_and_partial_means_say_so():
    assert spread(None, 3) == "–"
    assert spread(Mean.of([0.5, None, float("nan")]), 3) == ".500 (1/3)"
    assert spread(Mean.of([0.25, 0.75]), 2) == ".500 ± .354"
    assert Mean.of([True, "x", None]) is None


def test_cost_has_units_and_counts_parameters(runs):
    found = collect([runs])
    table = cost_table(found.groups, {folder: len(rows) for folder, rows in found.epochs.items()})
    cells = dict(zip(table.columns, (cell.text for cell in table.blocks[0].rows[0].cells), strict=True))
    assert cells["training, s"] == "1.5 ± 0.0"
    assert cells["parameters, million"] == "2.500 ± 0.000"
    assert cells["epochs"] == "3 ± 0"
    assert "of the GPU, MB" not in cells


def test_pictures_keep_to_their_budget(runs):
    found = collect([runs])
    for budget in (1_000_000, 100_000):
        taken = pictures(found, budget)
        every = [picture for of_run in taken.values() for picture in of_run]
        assert len(every) == 5
        assert sum(len(picture.address) for picture in every) <= budget
        assert all(picture.address or "left out" in picture.note for picture in every)
        assert all(picture.address for picture in every) == (budget == 1_000_000)
        assert taken[runs / "ce" / "0"][0].address.startswith("data:image/webp;base64,")
    (runs / "razh" / "figures" / "parts.png").write_bytes(b"no picture")
    assert pictures(found)[runs / "razh"][1].note == "parts.png cannot be read"


def test_the_page_is_whole_escaped_and_the_same_again(runs, leave_run, capsys):
    leave_run("strange", "random", note=HOSTILE)
    assert main(["report", str(runs)]) == 0
    page = (runs / "report.html").read_text()
    shown = capsys.readouterr().err
    assert f"written: {runs / 'report.html'}" in shown
    assert "7 runs of 5 configurations" in page
    assert f"left out: {runs / 'killed'}, not finished" in shown
    assert "razh compare" in shown
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "://" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count('<svg class="chart"') >= 4
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for words in ("Not in the tables", "random ranking", "validation mAP", "precision over recall, unseen classes"):
        assert words in page
    assert main(["report", str(runs), f"--write={runs / 'again.html'}"]) == 0
    assert (runs / "again.html").read_text() == page


def test_what_cannot_be_reported_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, arguments in (
        ("and no run in or below it", [str(tmp_path / "empty")]),
        ("no folder", [str(runs), str(tmp_path / "none")]),
        ("is no .html file", [str(runs), "--write=x"]),
        ("--into is for benchmarks", [str(runs), "--into=x.md"]),
        ("--by is for benchmarks", [str(runs), "--by=class"]),
    ):
        assert main(["report", *arguments]) == 1
        [error] = capsys.readouterr().err.strip().splitlines()
        assert error.startswith("error: ")
        assert words in error


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_from_a_file(runs, scheme):
    player = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    assert main(["report", str(runs)]) == 0
    wrong = []
    with player.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None)
        page.goto((runs / "report.html").as_uri())
        assert page.title() == "Runs side by side – razh"
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        shot = page.locator("details.shot").first
        before = shot.bounding_box()["height"]
        shot.locator("summary").focus()
        page.keyboard.press("Enter")
        assert shot.bounding_box()["height"] != before
        browser.close()
    assert wrong == []
