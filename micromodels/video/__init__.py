"""Video in and out: exact frame tables and frames by index, decoded with limits in a separate process.

``open_video`` gives a ``Video`` (of a file or folder) or an ``ArrayVideo`` (of frames in memory) with its
``FrameTable``; ``write_video`` writes overlays. Frame indices are 0-based in display order, images RGB ``uint8`` of
shape ``(height, width, 3)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from micromodels.video.array_video import ArrayVideo
from micromodels.video.limits import DecodeLimits
from micromodels.video.table import FrameTable
from micromodels.video.video import Video, open_video

if TYPE_CHECKING:
    from micromodels.video.writer import write_video

__all__ = ["ArrayVideo", "DecodeLimits", "FrameTable", "Video", "open_video", "write_video"]


def __getattr__(name: str) -> Any:
    """Import ``write_video`` on demand: reading a video loads no codec into the calling process."""
    if name == "write_video":
        from micromodels.video.writer import write_video

        return write_video
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
