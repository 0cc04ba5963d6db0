"""Who may ask: hosts by name, one origin, and a token where others can reach the port."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback", "new_token"]

COOKIE = "razh"
HEADERS = {
    # Nothing is asked of another host, and no other page shows this one.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the token may stand in the address
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host of that name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(18)


class Guard:
    """Lets through what may ask, and says in a header of every answer what a browser may do with it.

    Without a token, requests must name this machine (a page elsewhere could give its own name this address). With one,
    it is asked for: as `Authorization: Bearer …`, or in the address of the page, which leaves it in a cookie.

    Args:
        app: what is guarded.
        token: "" for none.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on, a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self._welcome(scope)
        await (answer or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.token and not is_loopback(_name_of(host)):
            return _refused(403, f"this server is asked as {host!r}; open it as http://127.0.0.1:PORT")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and (
            headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
            or (origin is not None and urlsplit(origin).netloc != host)
        ):
            return _refused(403, "another page asks; open the page of this server")
        return None

    def _welcome(self, scope: Scope) -> Response | None:
        """Return None for whoever has the token, and otherwise what to answer."""
        if not self.token:
            return None
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if (scheme.lower() == "bearer" and self._is_token(bearer)) or self._is_token(_cookie(headers)):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if scope["path"] == "/" and self._is_token(asked):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="lax")
            return answer
        return _refused(401, "open the address that `razh serve` printed, with its token")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)


def _name_of(host: str) -> str:
    """Return the name in a `Host` header, without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
