"""A real server with its web page, and plain HTTP to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc.aio

from service.api import ApiServer
from service.web import WebServer
from tests.service.api.harness import Running


class Served(Running):
    """As ``Running``, with the page; ``web_port`` is the port of the page."""

    async def _serve(self, ready: Future[int], port: int) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            api = ApiServer(self.store, "127.0.0.1", port, transport=self.transport, preload=self._preload)
            await api.start()
            options = [("grpc.max_receive_message_length", 16 << 20)]
            channel = self._channel(f"127.0.0.1:{api.port}", options)
            tls = self.transport.ssl_context()
            web = WebServer(self.store, channel, "127.0.0.1", getattr(self, "web_port", 0), tls=tls)
            await web.start()
        except BaseException as error:
            ready.set_exception(error)
            raise
        self.web_port = web.port
        ready.set_result(api.port)
        await self._stopping.wait()
        await web.stop()
        await api.stop(1.0)
        await _cut_off()

    def _channel(self, address: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
        certificate = self.transport.certificate
        if certificate is None:
            return grpc.aio.insecure_channel(address, options=options)
        authority = Path(str(certificate.ca_file)).read_bytes()
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority), options=options)

    @property
    def url(self) -> str:
        """What to open."""
        return f"http{'s' if self.transport.certificate else ''}://127.0.0.1:{self.web_port}/"

    def http(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers with lower-case names, body."""
        connection = self._connection()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, data, {k: v for k, v in given.items() if v})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        certificate = self.transport.certificate
        if certificate is None:
            return http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=60)
        trusted = ssl.create_default_context(cafile=str(certificate.ca_file))  # nothing but the server's own authority
        return http.client.HTTPSConnection("127.0.0.1", self.web_port, timeout=60, context=trusted)

    def rpc(self, method: str, body: object = None, **headers: str) -> Any:
        """The JSON that a call through the gateway answers with."""
        status, _, data = self.http("POST", f"/api/{method}", body or {}, headers)
        answer = json.loads(data)
        assert status == 200, answer
        return answer

    def lines(self, method: str, body: object) -> list[dict[str, Any]]:
        """The lines of a stream through the gateway."""
        status, headers, data = self.http("POST", f"/api/{method}", body)
        assert (status, headers["content-type"]) == (200, "application/x-ndjson"), data
        return [json.loads(line) for line in data.splitlines() if line]


async def _cut_off() -> None:
    """Close sockets that browsers left half-way through a TLS handshake: they belong to no connection of a server yet,
    and would be complained of in whichever test runs when they are collected. asyncio has no public way to them."""
    left = list(getattr(asyncio.get_running_loop(), "_transports", {}).values())
    for transport in left:
        transport.abort()
    for _ in range(3):  # the next rounds of the loop close them
        await asyncio.sleep(0)
