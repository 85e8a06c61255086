"""The console script ``micromodels``: the command line, or one line on what it needs."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; with the base install alone say what to install, and end with exit code 2."""
    try:
        from service.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("service", "micromodels"):
            raise
        needs = "this command needs more than the client: pip install 'micromodels-video[server]'"
        print(f"error: {needs} ({error.name} is missing)", file=sys.stderr)
        sys.exit(2)
    app()
