"""A server with its page, to be killed: ``python -m tests.service.web.victim DATA_DIR PORT WEB_PORT``; 0: any free
port.

Jobs run the fake library. Prints ``ready PORT WEB_PORT`` when it answers.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio

from service.api import ApiServer
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.store import Store
from service.web import WebServer

PRELOAD = "tests.service.api.fake_labeling"


class Victim:
    """Starts, kills and starts again such a server, always on the same data and ports.

    Args:
        folder: data folder.

    Attributes:
        url: what to open.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._ports = folder, ["0", "0"]
        self._process: subprocess.Popen[str] | None = None
        self.start()
        self.url = f"http://127.0.0.1:{self._ports[1]}/"

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "tests.service.web.victim", str(self._folder), *self._ports]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        word, *self._ports = (self._process.stdout.readline() or "died 0 0").split()
        assert word == "ready", f"the server ended with {self._process.wait()}"

    def kill(self) -> None:
        """Kill -9; nothing of it answers when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout
            self._process.stdout.close()
            self._process = None


async def _serve(store: Store, settings: Settings, port: int, web_port: int) -> None:
    runner = JobRunner(store, settings, preload=PRELOAD)
    api = ApiServer(store, "127.0.0.1", port, preload=PRELOAD)
    runner.start()
    await api.start()
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{api.port}", options=[("grpc.max_receive_message_length", 16 << 20)]
    )
    web = WebServer(store, channel, "127.0.0.1", web_port)
    await web.start()
    print("ready", api.port, web.port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    settings = Settings(data_dir=Path(sys.argv[1]), min_free_bytes=0, lease_seconds=2.0)
    with Store.open(settings) as store:
        asyncio.run(_serve(store, settings, int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
