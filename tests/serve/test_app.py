"""The JSON API: what is found, what is refused, and nothing of the file system beside the archive's pictures."""

import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import razh

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')
pytest.importorskip("httpx2", reason="FastAPI's test client needs httpx2")

from fastapi.testclient import TestClient

from razh.index.archive import ArchiveWriter, Snapshot
from razh.serve import app as application
from razh.serve import searching
from razh.serve.app import STRONG, make_app
from razh.serve.searching import Searcher
from tests.commands.conftest import TRAITS

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def client(searcher, decoder):
    return TestClient(make_app(searcher, decoder), base_url=HERE)


def png(width=50, height=30, seed=0):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def search(client, **asked):
    answer = client.post("/api/search", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_archive_says_what_can_be_asked(client, folder):
    facts = client.get("/api/archive").json()
    assert (facts["name"], facts["images"], facts["bits"], facts["method"]) == ("photos", 31, 12, "RAZH")
    assert facts["uploads"]
    assert facts["why"]
    assert facts["attributes"] == [
        {"name": name, "part": part} for name, part in zip(TRAITS, ("head", "head", "tail"), strict=True)
    ]
    by_column = {one["column"]: one["words"] for one in facts["filters"]}
    assert by_column["class"] == [{"word": name, "count": 10} for name in "abc"]
    assert set(by_column) == {"class", "folder"}  # all images are of one source


def test_lists_are_those_of_the_archive_and_pages_of_them_fit_together(client, folder):
    numbering = client.get("/api/archive").json()["numbering"]
    wanted = razh.Archive.open(folder).search("photos/b/3.png", k=40)
    row = Snapshot(folder).rows_of(["photos/b/3.png"])["photos/b/3.png"]
    query = {"row": row, "numbering": numbering}
    found = [search(client, query=query, offset=offset, limit=7) for offset in range(0, 35, 7)]
    assert {page["total"] for page in found} == {30}
    assert {page["query"] for page in found} == {"photos/b/3.png"}
    hits = [(hit["path"], hit["distance"]) for page in found for hit in page["hits"]]
    assert hits == [(hit.path, hit.distance) for hit in wanted]
    first = found[0]["hits"][0]
    assert first["class"] == first["path"].split("/")[1]


def test_without_a_query_all_images_are_listed_and_the_first_page_shows_what_there_is(client):
    everything = search(client, limit=50)
    assert sorted(hit["row"] for hit in everything["hits"]) == list(range(31))
    assert {hit["distance"] for hit in everything["hits"]} == {None}
    assert {hit["class"] for hit in everything["hits"][:6]} >= set("abc")
    assert search(client, offset=29)["hits"] == everything["hits"][29:]
    assert search(client, offset=500)["hits"] == []
    in_order = search(client, where={"class": ["b"]})["hits"]
    assert [hit["row"] for hit in in_order] == list(range(10, 20))


def test_filters_are_those_of_the_archive(client):
    for query in (None, {"attributes": [{"name": "head colour: red"}]}):
        found = search(client, query=query, where={"class": ["a", "c"]}, limit=50)
        assert found["total"] == len(found["hits"]) == 20
        assert {hit["class"] for hit in found["hits"]} == {"a", "c"}
    answer = client.post("/api/search", json={"where": {"class": ["z"]}})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("class=z: no image of")


def test_photos_are_encoded_as_the_archive_was(client, folder):
    photo = (folder.parent / "photos/a/4.png").read_bytes()
    sent = client.post("/api/uploads", content=photo)
    assert sent.status_code == 201
    assert (sent.json()["width"], sent.json()["height"]) == (60, 40)
    found = search(client, query={"upload": sent.json()["upload"]}, limit=50)
    assert found["total"] == 31
    assert ("photos/a/4.png", 0) in [(hit["path"], hit["distance"]) for hit in found["hits"]]
    preview = client.get(f"/api/uploads/{sent.json()['upload']}")
    assert Image.open(io.BytesIO(preview.content)).size == (60, 40)


def test_what_is_described_is_what_python_describes(client, folder):
    archive = razh.Archive.open(folder)
    wanted = archive.search(codes=archive.describe({"red": 1, "tail long": 0.2}), k=5)[0]
    asked = [{"name": "head colour: red"}, {"name": "tail length: long", "strength": 0.2}]
    found = search(client, query={"attributes": asked}, limit=5)
    assert [(hit["path"], hit["distance"]) for hit in found["hits"]] == [(hit.path, hit.distance) for hit in wanted]
    assert found["understood"] == "head colour: red:1, tail length: long:0.2"


def test_words_are_understood_as_in_the_terminal(client, folder):
    found = search(client, query={"words": "a red head, strangely"}, limit=5)
    assert found["understood"] == "head colour: red"
    assert found["unknown"] == ["strangely"]
    asked = search(client, query={"attributes": [{"name": "head colour: red"}]}, limit=5)
    assert [hit["row"] for hit in found["hits"]] == [hit["row"] for hit in asked["hits"]]
    told = client.post("/api/why", json={"query": {"words": "red"}, "row": 0, "numbering": found["numbering"]}).json()
    assert [one["name"] for one in told["attributes"]] == ["head colour: red"]
    answer = client.post("/api/search", json={"query": {"words": "nonsense"}})
    assert (answer.status_code, answer.json()["error"][:36]) == (422, "nonsense: none of its words is an at")


def test_why_is_what_the_model_tells(client, folder):
    model, paths = razh.Archive.open(folder).model, ("photos/a/1.png", "photos/b/2.png")
    rows, numbering = Snapshot(folder).rows_of(paths), Snapshot(folder).numbering
    own, hit = (model.why(folder.parent / path) for path in paths)
    query = {"row": rows[paths[0]], "numbering": numbering}
    told = client.post("/api/why", json={"query": query, "row": rows[paths[1]], "numbering": numbering}).json()
    shared = own.shared(hit, STRONG)
    assert [one["name"] for one in told["attributes"]] == [pair.query.name for pair in shared]
    for one, pair in zip(told["attributes"], shared, strict=True):
        np.testing.assert_allclose(one["hit"]["map"], pair.hit.map, atol=1e-4)
        assert one["query"]["strength"] == pytest.approx(pair.query.strength, abs=1e-3)
    assert told["hit_box"] == pytest.approx([1 / 6, 0, 2 / 3, 1])  # the middle of 60 × 40
    alone = client.post("/api/why", json={"row": rows[paths[1]], "numbering": numbering}).json()
    assert [one["name"] for one in alone["attributes"]] == [f.name for f in hit.attributes if f.strength > STRONG]
    asked = {"attributes": [{"name": "tail"}]}
    told = client.post("/api/why", json={"query": asked, "row": 0, "numbering": numbering}).json()
    assert [one["name"] for one in told["attributes"]] == ["tail length: long"]
    sent = client.post("/api/uploads", content=(folder.parent / paths[1]).read_bytes()).json()["upload"]
    of_upload = client.post("/api/why", json={"query": {"upload": sent}}).json()
    assert of_upload["hit_box"] == alone["hit_box"]
    assert [one["name"] for one in of_upload["attributes"]] == [one["name"] for one in alone["attributes"]]
    assert client.post("/api/why", json={"query": asked}).status_code == 422


def test_pictures_are_small_copies_by_row_alone(client, folder):
    numbering = Snapshot(folder).numbering
    small = client.get(f"/api/images/{numbering}/3")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (60, 40)
    for path in (f"/api/images/{numbering}/31", f"/api/images/{numbering}/-1", "/api/images/other/3",
                 f"/api/images/{numbering}/..%2F..%2Fetc%2Fpasswd", "/etc/passwd", "/../../etc/passwd", "/page.js.map",
                 "/api/uploads/unknown"):  # fmt: skip
        assert client.get(path).status_code in (404, 422), path


@pytest.mark.parametrize("name", ["photos/../secret.png", "/etc/passwd", "photos//etc/passwd", "elsewhere/x.png"])
def test_a_name_that_leads_out_of_the_archive_is_no_file(name, client, searcher, folder, monkeypatch):
    fakes = Snapshot(folder)
    monkeypatch.setattr(fakes, "paths", {3: name})
    with pytest.raises(searching.Gone, match="lies in none of the folders"):
        searcher._file(fakes, 3)


def test_what_camera_wrote_beside_the_pixels_stays_here(client, folder):
    photo = Image.open(folder.parent / "photos/a/4.png")
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    content = io.BytesIO()
    photo.save(content, "JPEG", exif=exif)
    key = client.post("/api/uploads", content=content.getvalue()).json()["upload"]
    assert b"where it was taken" in content.getvalue()
    assert b"where it was taken" not in client.get(f"/api/uploads/{key}").content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "the image .* is cut short or not an image"),
        (png()[:900], "the image .* is cut short or not an image"),
        (png(1200, 1000), "the image has more pixels than max_megapixels=1 allows"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_line(content, told, client):
    answer = client.post("/api/uploads", content=content)
    assert answer.status_code == 422
    assert len(answer.json()["error"].splitlines()) == 1
    assert re.search(told, answer.json()["error"])


def test_uploads_are_bounded_also_where_nobody_says_their_size(client, monkeypatch):
    monkeypatch.setattr(application, "MAX_BYTES", 1000)
    for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        answer = client.post("/api/uploads", content=content)
        assert (answer.status_code, "more than 0.001 MB" in answer.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"query": {}}, "ask for one of row, upload, attributes and words"),
        ({"query": {"row": 1, "upload": "x"}}, "ask for one of row, upload, attributes and words"),
        ({"query": {"attributes": [{"name": "head colour: red", "strength": 2}]}}, "less than or equal to 1"),
        ({"query": {"attributes": [{"name": "beak"}]}}, "'beak' is no attribute of this checkpoint"),
        ({"query": {"attributes": [{"name": "head"}]}}, "'head' may be head colour: red, head colour: blue; say which"),
        ({"limit": 10_000}, "limit: "),
        ({"offset": -1}, "offset: "),
        ({"path": "/etc/passwd"}, "path: Extra inputs"),
    ],
)
def test_questions_that_make_no_sense_are_refused_in_one_line(asked, told, client):
    answer = client.post("/api/search", json=asked)
    assert answer.status_code == 422
    assert told in answer.json()["error"]


def test_what_is_not_there_any_more_says_so(client, folder):
    numbering = Snapshot(folder).numbering
    for query in ({"row": 999, "numbering": numbering}, {"row": 0, "numbering": "old"}, {"upload": "old"}):
        answer = client.post("/api/search", json={"query": query})
        assert answer.status_code == 404
        assert answer.json()["error"].endswith("again")


def test_an_archive_that_changes_is_shown_as_it_is(searcher, decoder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "REFRESH", 0.0)
    copy = tmp_path / "archive"
    shutil.copytree(folder, copy)
    client = TestClient(make_app(Searcher(copy, searcher.model), decoder), base_url=HERE)
    before = search(client, limit=50)
    with ArchiveWriter(copy) as writer:
        writer.remove([0, 5])
        writer.commit()
    after = search(client, limit=50)
    assert sorted(hit["row"] for hit in after["hits"]) == [row for row in range(31) if row not in (0, 5)]
    assert client.get(f"/api/images/{before['numbering']}/5").status_code == 404
    assert client.get("/api/archive").json()["images"] == 29
    with ArchiveWriter(copy) as writer:
        writer.remove(range(10))
        writer.commit()
        writer.pack()
    assert search(client)["numbering"] != before["numbering"]
    assert client.get(f"/api/images/{before['numbering']}/20").status_code == 404


def test_without_the_checkpoint_images_of_the_archive_can_still_be_asked_for(folder):
    client = TestClient(make_app(Searcher(folder, None), None), base_url=HERE)
    facts = client.get("/api/archive").json()
    assert not facts["uploads"]
    assert not facts["why"]
    assert facts["attributes_problem"] == "the checkpoint that made the archive is not there"
    assert search(client, query={"row": 1, "numbering": facts["numbering"]})["total"] == 30
    assert client.post("/api/uploads", content=png()).status_code == 409
    assert client.post("/api/why", json={"row": 1, "numbering": facts["numbering"]}).status_code == 422


def test_nothing_is_lost_where_many_ask_at_once(client):
    numbering = client.get("/api/archive").json()["numbering"]
    alone = {row: search(client, query={"row": row, "numbering": numbering})["hits"] for row in range(31)}

    def ask(number):
        row = number % 31
        if number % 10 == 0:
            return client.post("/api/uploads", content=png(seed=number)).status_code == 201
        return search(client, query={"row": row, "numbering": numbering})["hits"] == alone[row]

    with ThreadPoolExecutor(50) as clients:
        assert all(clients.map(ask, range(150)))
