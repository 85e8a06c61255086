"""The worker's connection to its server, and what every task needs: a run that reports on it, an open video."""

from __future__ import annotations

import base64
import io
import json
import re
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from micromodels.runtime.run import Event, FlipBookPicture, Run, StopRequest
from service.worker.protocol import MessageType, Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from micromodels.video import Video

__all__ = ["Channel", "event_kind", "open_task_video", "task_run"]

_JPEG_QUALITY = 85


class Channel(Protocol):
    """Connection to the server."""

    def send(self, message_type: MessageType, /, **values: Any) -> None:
        """Send a message; blocks while the server does not keep up."""

    def should_stop(self) -> StopRequest:
        """What the server has ordered so far."""


def event_kind(event: Event) -> str:
    """Snake case of the event's class: the ``kind`` under which it is stored."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _jpeg(image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def task_run(task: Task, channel: Channel) -> Run:
    """Device, cache and stopping of a task; its events go to the server."""

    def on_event(event: Event) -> None:
        payload = {field.name: getattr(event, field.name) for field in fields(event)}
        picture = _jpeg(payload.pop("image")) if isinstance(event, FlipBookPicture) else ""
        channel.send(MessageType.EVENT, kind=event_kind(event), payload=payload, picture=picture)

    checkpoints = Path(task.checkpoints) if task.checkpoints else None
    return Run(task.device, Path(task.cache), on_event, channel.should_stop, checkpoints)


def open_task_video(task: Task) -> AbstractContextManager[Video]:
    """Open the video of a task with its frame table, so that it is not scanned again."""
    from micromodels.video import FrameTable, open_video

    table = FrameTable.from_dict(json.loads(Path(task.frame_table).read_bytes()))
    return open_video(task.video_path, table=table)
