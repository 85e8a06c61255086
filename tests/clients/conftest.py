from __future__ import annotations

from tests.api.conftest import running

__all__ = ["running"]
