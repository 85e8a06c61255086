"""The web page and its way to the API: HTTP on a port of its own, in the process of the gRPC server.

There is no second backend: every call of the page is a message of ``micromodels.v1``, carried to the same servicers
over a loopback channel. Only pixels (exact frames) and the page's own files are served here directly.
"""

from __future__ import annotations

from service.web.site import WebServer

__all__ = ["WebServer"]
