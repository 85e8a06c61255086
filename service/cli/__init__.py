"""The command line, ``micromodels``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os

# Spinning OpenMP threads make steps ten times slower when another process uses the cores. torch reads this when it is
# imported, so set it before any other import of this project.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from service.cli.app import app

__all__ = ["app"]
