"""The console script ``micromodels``: runs the command line, or says what to install."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. With only the base install, say what to install and exit with code 2."""
    try:
        from service.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("service", "micromodels"):
            raise
        needs = "the command line needs the server install: pip install 'micromodels-video[server]'"
        print(f"error: {needs} ({error.name} is missing)", file=sys.stderr)
        sys.exit(2)
    app()
