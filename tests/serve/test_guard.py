"""Who may ask: this machine by its name, the page itself, and whoever has the token."""

import re

import pytest

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')
pytest.importorskip("httpx2", reason="FastAPI's test client needs httpx2")

from fastapi.testclient import TestClient

from razh.serve.app import make_app
from razh.serve.guard import is_loopback, new_token

HERE = "http://127.0.0.1:8000"
TOKEN = "a-token-of-a-test"


@pytest.fixture
def ask(searcher, decoder):
    """Return a factory of clients."""

    def make(token="", base=HERE):
        return TestClient(make_app(searcher, decoder, token), base_url=base, follow_redirects=False)

    return make


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:1", "[::1]:8000", "127.1.2.3:80"])
def test_names_of_this_machine_are_answered(host, ask):
    assert ask().get("/api/archive", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "192.168.0.1", ""])
def test_other_names_for_this_address_are_refused(host, ask):
    answer = ask().get("/api/archive", headers={"host": host})
    assert answer.status_code == 403
    assert "open it as http://127.0.0.1" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
                {"origin": "http://127.0.0.1:9"}]
)  # fmt: skip
def test_other_pages_cannot_ask(headers, ask):
    answer = ask().post("/api/search", json={}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "another page asks; open the page of this server")
    assert ask().post("/api/search", json={}, headers={"origin": HERE}).status_code == 200


def test_a_token_is_asked_for_and_kept_in_a_cookie(ask):
    client = ask(TOKEN, "http://photos.example:8000")
    for path in ("/", "/page.js", "/api/archive", "/api/openapi.json", "/?token=wrong", "/api/archive?token=" + TOKEN):
        assert client.get(path).status_code == 401, path
    assert client.get("/api/archive", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/archive", headers={"authorization": "Bearer é".encode()}).status_code == 401
    welcome = client.get(f"/?token={TOKEN}")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
    assert re.search("httponly", welcome.headers["set-cookie"], re.IGNORECASE)
    assert client.get("/").status_code == 200
    assert client.post("/api/search", json={}).status_code == 200
    assert ask(TOKEN).get("/", headers={"cookie": "razh=wrong"}).status_code == 401


def test_every_answer_forbids_other_hosts(ask):
    for path in ("/", "/page.css", "/page.js", "/icon.svg", "/api/archive", "/nothing"):
        headers = ask().get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_names_no_other_host(ask):
    client = ask()
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), path
    assert client.get("/docs").status_code == 404  # it would fetch scripts


def test_hosts_that_only_this_machine_reaches():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.1", "::", "example", "")))
    assert len(new_token()) >= 20
    assert new_token() != new_token()
