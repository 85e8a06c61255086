"""A server to be killed or loaded: ``python -m tests.faults.victim DATA_DIR PORT [PRELOAD]``.

PRELOAD is the module that its jobs import first: a scripted library where nothing else is given, the real one where it
is empty. Settings come from the environment. Prints ``ready`` when it answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

from service.access.transport import transport_for
from service.api import ApiServer
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.store import Store


async def serve(store: Store, settings: Settings, port: int, preload: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    runner = JobRunner(store, settings, preload=preload)
    api = ApiServer(store, "127.0.0.1", port, transport=transport_for(settings, "127.0.0.1"))
    runner.start()
    await api.start()
    print("ready", flush=True)
    await stopping.wait()
    await asyncio.gather(asyncio.to_thread(runner.stop), api.stop(5.0))


def main() -> None:
    if os.environ.pop("LD_PRELOAD", "").endswith("libfaketimeMT.so.1"):
        # It breaks time.sleep (clock_nanosleep with an absolute time) unless it fakes the monotonic clock as well.
        time.sleep = lambda seconds: threading.Event().wait(seconds) and None  # type: ignore[assignment,return-value]
    settings = Settings.from_environment(
        data_dir=Path(sys.argv[1]), min_free_bytes=0, lease_seconds=2.0, job_niceness=0, cancel_grace_seconds=0.5
    )
    with Store.open(settings) as store:
        asyncio.run(serve(store, settings, int(sys.argv[2]), (sys.argv[3:] or ["tests.service.jobs.fake_library"])[0]))


if __name__ == "__main__":
    main()
