"""The web page and its access to the API: HTTP on its own port, in the process of the gRPC server.

The page has no backend of its own: each of its calls is a message of ``micromodels.v1``, forwarded to the same
servicers over a local socket. Only frames (as pictures) and the page's own files are served directly.
"""

from __future__ import annotations

from service.web.site import WebServer

__all__ = ["WebServer"]
