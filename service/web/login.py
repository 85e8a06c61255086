"""Sign-in of the page: a cookie with the access token, used as credentials of gRPC calls."""

from __future__ import annotations

import time
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from micromodels.errors import InvalidInput, MicromodelsError
from micromodels.v1 import access_pb2, access_pb2_grpc
from service.access.login import LoginLimiter
from service.api.errors import error_status

__all__ = ["COOKIE", "add_sign_in_routes", "call_metadata"]

COOKIE = "micromodels_token"
_LONGEST_TOKEN = 4096
_SECONDS = 20.0


def call_metadata(request: web.Request) -> list[tuple[str, str]]:
    """Metadata for the gRPC call of a request: the access token of its cookie, if it has one.

    Permissions are not checked here: the servicers' interceptor does that, for the page as for every other client.
    """
    token = request.cookies.get(COOKIE, "")
    return [("authorization", f"Bearer {token}")] if _is_token(token) else []


def add_sign_in_routes(app: web.Application, channel: grpc.aio.Channel) -> None:
    """``POST /sign-in`` with ``{"token": ...}`` stores a valid token in an HTTP-only cookie; DELETE removes it.

    Args:
        app: gets the routes.
        channel: to the gRPC server, which checks tokens.
    """
    sign_in = _SignIn(access_pb2_grpc.AccessServiceStub(channel))
    app.router.add_post("/sign-in", sign_in.begin)
    app.router.add_delete("/sign-in", _end)


def _is_token(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _LONGEST_TOKEN and text.isascii() and text.isprintable()


class _SignIn:
    """Signs users in, with a limit on failed attempts."""

    def __init__(self, access: Any) -> None:
        self._access = access
        self._limiter = LoginLimiter()

    async def begin(self, request: web.Request) -> web.Response:
        """Answer ``POST /sign-in``."""
        from service.web.responses import error_response, rpc_status

        address = request.remote or ""
        try:
            self._limiter.check(address)
            token = await _token(request)
            caller = await self._access.GetCaller(
                access_pb2.GetCallerRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=_SECONDS
            )
        except MicromodelsError as error:
            return error_response(error_status(error))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._limiter.failed(address)
            return error_response(rpc_status(error))
        response = web.json_response({})
        left = max(caller.expire_time.seconds - time.time(), 0) if caller.HasField("expire_time") else None
        response.set_cookie(
            COOKIE,
            token,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
            max_age=None if left is None else int(left),
        )
        return response


async def _token(request: web.Request) -> str:
    try:
        body = await request.json()
    except ValueError:
        body = None
    token = body.get("token") if isinstance(body, dict) else None
    if not isinstance(token, str) or not _is_token(token) or ";" in token or " " in token:
        raise InvalidInput("token", "the sent value", f"a token of at most {_LONGEST_TOKEN} printable characters")
    return token


async def _end(request: web.Request) -> web.Response:
    response = web.json_response({})
    response.del_cookie(COOKIE, path="/")
    return response
