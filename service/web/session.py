"""Who is calling: the session cookie of the page as credentials of a gRPC call."""

from __future__ import annotations

from aiohttp import web

from micromodels.errors import InvalidInput
from service.api.status import error_status

__all__ = ["COOKIE", "add_session_routes", "call_metadata"]

COOKIE = "micromodels_session"
_LONGEST_TOKEN = 4096


def call_metadata(request: web.Request) -> list[tuple[str, str]]:
    """Metadata for the gRPC call that a request becomes: the token of its session, if it has one.

    Nothing here decides what a caller may do: the servicers' interceptor does, for the page as for everybody else.
    """
    token = request.cookies.get(COOKIE, "")
    return [("authorization", f"Bearer {token}")] if _is_token(token) else []


def add_session_routes(app: web.Application) -> None:
    """``POST /session`` with ``{"token": ...}`` keeps the token in a cookie scripts cannot read; DELETE forgets it."""
    app.router.add_post("/session", _begin)
    app.router.add_delete("/session", _end)


def _is_token(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _LONGEST_TOKEN and text.isascii() and text.isprintable()


async def _begin(request: web.Request) -> web.Response:
    try:
        body = await request.json()
    except ValueError:
        body = None
    token = body.get("token") if isinstance(body, dict) else None
    if not _is_token(token) or ";" in str(token) or " " in str(token):
        from service.web.gateway import error_response

        error = InvalidInput("token", "what was sent", f"a token of at most {_LONGEST_TOKEN} printable characters")
        return error_response(error_status(error))
    response = web.json_response({})
    response.set_cookie(COOKIE, str(token), httponly=True, samesite="Strict", secure=request.secure, path="/")
    return response


async def _end(request: web.Request) -> web.Response:
    response = web.json_response({})
    response.del_cookie(COOKIE, path="/")
    return response
