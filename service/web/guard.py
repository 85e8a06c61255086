"""Checks of every HTTP request (Host, Origin), and security headers of every response."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from google.rpc import code_pb2

from service.api.errors import make_status

__all__ = ["add_headers", "make_guard"]

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_READING = frozenset({"GET", "HEAD"})


def make_guard(hosts: Collection[str]) -> Middleware:
    """Create a middleware that admits only this page's own requests.

    - A ``Host`` that is neither a loopback name nor one of ``hosts`` is refused, because a foreign name that resolves
      to this machine (DNS rebinding) would give a foreign page the same origin.
    - A request from another origin is refused, except to open the page itself. ``Sec-Fetch-Site`` and ``Origin`` show
      where it comes from. Requests that write must also be JSON, which a foreign form cannot send.

    Args:
        hosts: names of the server, without port, besides the loopback names.
    """
    known = frozenset(host.lower().strip("[]") for host in hosts)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refusal(request, known)
        if refusal:
            from service.web.responses import error_response

            response: web.StreamResponse = error_response(
                make_status(code_pb2.PERMISSION_DENIED, "CROSS_ORIGIN", refusal)
            )
            response.headers.update(_HEADERS)
            return response
        try:
            return await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise

    return guard


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of aiohttp: adds the headers to every response, streams included."""
    response.headers.update(_HEADERS)


def _refusal(request: web.Request, known: frozenset[str]) -> str:
    """Why a request is refused; empty if it is admitted."""
    host = urlsplit("//" + request.headers.get("Host", "")).hostname or ""
    if host not in known and not _is_loopback(host):
        return f"the host name {host[:100]!r} is not allowed; add it to MICROMODELS_TLS_NAMES"
    opens_page = request.method in _READING and request.path == "/"
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ("same-origin", "none") and not opens_page:
        return "requests from pages of another origin are not allowed"
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("Host"):
        return "requests from pages of another origin are not allowed"
    if request.method not in _READING | {"DELETE"} and request.content_type != "application/json":
        return "the content type must be application/json"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
