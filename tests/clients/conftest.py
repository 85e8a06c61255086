from __future__ import annotations

from tests.service.api.conftest import running

__all__ = ["running"]
