"""The page and the JSON API: what is asked, checked; what is answered."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from razh import __version__
from razh.serve.decoding import Decoder
from razh.serve.guard import Guard
from razh.serve.searching import Gone, Query, Reasons, Searcher

if TYPE_CHECKING:
    from razh.index.why import Found

__all__ = ["MAX_BYTES", "MAX_MEGAPIXELS", "SECONDS", "make_app"]

MAX_BYTES = 32_000_000  # of an upload
MAX_MEGAPIXELS = 50.0
SECONDS = 10.0  # to decode one
ARRIVAL = 60.0  # seconds for all of its bytes
MOST_HITS = 200  # of a page
MOST_ATTRIBUTES = 16  # that are told of an image
STRONG = 0.5  # deviations above the mean, from which on an image is said to show an attribute
PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
KEPT = {"cache-control": "private, max-age=86400, immutable"}  # a picture's address names what it shows


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Attribute(_Asked):
    """An attribute that is wanted; 1 is as strong as the strongest class has it, 0 without it."""

    name: str = Field(min_length=1, max_length=200)
    strength: float = Field(1.0, ge=0, le=1)


class Question(_Asked):
    """One of: a row of the archive, an upload, attributes, words."""

    row: int | None = Field(None, ge=0)
    numbering: str = ""
    upload: str | None = None
    attributes: list[Attribute] | None = Field(None, min_length=1, max_length=50)
    words: str | None = Field(None, min_length=1, max_length=500)

    @model_validator(mode="after")
    def _one(self) -> Question:
        if sum(given is not None for given in (self.row, self.upload, self.attributes, self.words)) != 1:
            raise ValueError("ask for one of row, upload, attributes and words")
        return self


class Search(_Asked):
    """A page of a list."""

    query: Question | None = None
    where: dict[str, list[str]] = Field(default_factory=dict)
    offset: int = Field(0, ge=0)
    limit: int = Field(24, ge=1, le=MOST_HITS)


class Ask(_Asked):
    """Why an image is in the list of a query; with one of both alone, what was found in that."""

    query: Question | None = None
    row: int | None = Field(None, ge=0)
    numbering: str = ""


def make_app(searcher: Searcher, decoder: Decoder | None, token: str = "") -> FastAPI:
    """Return the application.

    Args:
        searcher: the archive.
        decoder: of uploads; None refuses them.
        token: that has to be given, see `Guard`.
    """
    # Its own page of the API would fetch scripts of another host.
    app = FastAPI(title="razh", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(Guard, token=token)
    _add_errors(app)
    _add_page(app)

    @app.get("/api/archive")
    def archive() -> dict[str, Any]:
        """What there is to search, and what can be asked."""
        return searcher.facts() | {"max_bytes": MAX_BYTES}

    @app.post("/api/search")
    def search(asked: Search) -> dict[str, Any]:
        """A page of the images nearest to a query, or of all of them."""
        found = searcher.search(_query(searcher, asked.query), asked.where, asked.offset, asked.limit)
        hits = [{"row": h.row, "path": h.path, "class": h.group, "distance": h.distance} for h in found.hits]
        return {
            "numbering": found.numbering,
            "total": found.total,
            "offset": asked.offset,
            "query": found.query.name,
            "understood": found.query.understood,
            "unknown": found.query.unknown,
            "hits": hits,
        }

    @app.post("/api/uploads", status_code=201)
    async def upload(request: Request) -> dict[str, Any]:
        """Take an image file, as the body, and return the key by which it can be asked for."""
        if decoder is None:
            raise HTTPException(
                409, "photos cannot be encoded: the checkpoint is not there; start `razh serve` with --checkpoint"
            )
        content = await _body(request)
        picture = await run_in_threadpool(decoder.decode, content)
        key = await run_in_threadpool(searcher.upload, picture)
        return {"upload": key, "width": picture.size[0], "height": picture.size[1]}

    @app.get("/api/uploads/{key}")
    def preview(key: str) -> Response:
        """A smaller copy of an upload."""
        return Response(searcher.preview(key), media_type="image/jpeg", headers=KEPT)

    @app.get("/api/images/{numbering}/{row}")
    def image(numbering: str, row: int, large: bool = False) -> Response:
        """A smaller copy of an image of the archive, by its row."""
        return Response(searcher.picture(row, numbering, large), media_type="image/jpeg", headers=KEPT)

    @app.post("/api/why")
    def why(asked: Ask) -> dict[str, Any]:
        """The attributes that a query and a hit share, and where they are; the strongest first."""
        return _why(searcher, asked)

    return app


def _query(searcher: Searcher, question: Question | None) -> Query:
    if question is None:
        return Query()
    if question.row is not None:
        return searcher.of_row(question.row, question.numbering)
    if question.upload is not None:
        return searcher.of_upload(question.upload)
    if question.words is not None:
        return searcher.of_words(question.words)
    return searcher.of_attributes({one.name: one.strength for one in question.attributes or ()})


async def _body(request: Request) -> bytes:
    """Return the body, which has to come in time and may have so many bytes."""
    content = bytearray()
    too_large = HTTPException(413, f"the file has more than {MAX_BYTES / 1e6:g} MB; make it smaller")
    if int(request.headers.get("content-length") or 0) > MAX_BYTES:
        raise too_large
    try:
        with anyio.fail_after(ARRIVAL):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the file did not arrive within {ARRIVAL:g} seconds") from None
    if not content:
        raise HTTPException(422, "the file is empty")
    return bytes(content)


def _why(searcher: Searcher, asked: Ask) -> dict[str, Any]:
    query = _reasons(searcher, asked.query)
    hit = query if asked.row is None else searcher.why_row(asked.row, asked.numbering)
    if hit is None:
        raise HTTPException(422, "ask for a row, or for a query that is an image")
    pairs: list[tuple[Found | None, Found]] = [(None, found) for found in hit.why.attributes if found.strength > STRONG]
    if asked.row is not None and query is not None:
        pairs = [(pair.query, pair.hit) for pair in query.why.shared(hit.why, STRONG)]
    elif query is None and (wanted := _query(searcher, asked.query).attributes):
        pairs = [(None, found) for found in hit.why.attributes if found.name in wanted]
    told = [
        {"name": there.name, "part": there.part, "query": here and _place(here), "hit": _place(there)}
        for here, there in pairs[:MOST_ATTRIBUTES]
    ]
    return {"attributes": told, "query_box": query and query.box, "hit_box": hit.box}


def _reasons(searcher: Searcher, question: Question | None) -> Reasons | None:
    """Return what is found in the image that is asked for, if it is one."""
    if question is not None and question.row is not None:
        return searcher.why_row(question.row, question.numbering)
    if question is not None and question.upload is not None:
        return searcher.why_upload(question.upload)
    return None


def _place(found: Found) -> dict[str, Any]:
    return {"strength": round(found.strength, 3), "map": np.round(found.map.astype(float), 4).tolist()}


def _add_page(app: FastAPI) -> None:
    """Serve the files of the page, which are read once."""
    folder = files("razh.serve") / "page"

    def serve(name: str, kind: str) -> Any:
        content = (folder / name).read_bytes()

        def answer() -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        return answer

    for path, (name, kind) in PAGE.items():
        app.get(f"/{path}", include_in_schema=False)(serve(name, kind))


def _add_errors(app: FastAPI) -> None:
    """Answer every refusal with one line, `{"error": …}`."""

    @app.exception_handler(Gone)
    def gone(_: Request, error: Gone) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 404)

    @app.exception_handler(ValueError)
    def refused(_: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split()).replace("--where ", "").replace("--text=", "")}, 422)

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = dict(error.errors()[0])
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"error": f"{where}: {first['msg']}" if where else str(first["msg"])}, 422)
