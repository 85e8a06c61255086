"""A server in its own process, to be killed: ``python -m tests.service.api.victim FOLDER CLIP`` prints its address."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.service.api.harness import Running

if __name__ == "__main__":
    running = Running(Path(sys.argv[1]), Path(sys.argv[2]))
    print(running.address, flush=True)
    threading.Event().wait()
