"""What readers and writers of labels know of the video: its size, its frames, their times and names."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from micromodels.errors import InvalidInput

if TYPE_CHECKING:
    from micromodels.video import ArrayVideo, FrameTable, Video

__all__ = ["VideoInfo"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video, as files of labels speak of it. `VideoInfo.of` makes it of an open video or a frame table.

    Raises:
        InvalidInput: a count or a size below 1, or times or names that are not one for each frame.
    """

    frame_count: int
    """Number of frames."""

    width_px: int
    """Width as displayed."""

    height_px: int
    """Height as displayed."""

    pts: tuple[int, ...] = field(default=(), repr=False)
    """Presentation time of every frame in units of ``time_base``; empty where it is not known."""

    time_base: Fraction = Fraction(1)
    """Seconds per unit of ``pts``."""

    frame_names: tuple[str, ...] = field(default=(), repr=False)
    """File names of a folder of frames in order of index; empty for a video file."""

    content_hash: str = ""
    """SHA-256 (hex) of the content; empty where it is not known."""

    is_folder: bool = False
    """Whether it is a folder of pictures; then numbers in their names need not be those of the frames."""

    def __post_init__(self) -> None:
        for name in ("frame_count", "width_px", "height_px"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"video.{name}", getattr(self, name), "an integer >= 1")
        for name in ("pts", "frame_names"):
            if len(getattr(self, name)) not in (0, self.frame_count):
                allowed = f"one for each of the {self.frame_count} frames, or none"
                raise InvalidInput(f"video.{name}", f"{len(getattr(self, name))} values", allowed)

    @classmethod
    def of(cls, video: Video | ArrayVideo | FrameTable | VideoInfo) -> VideoInfo:
        """Of an open video, of a frame table (which has no names of frames), or of what is one already."""
        if isinstance(video, VideoInfo):
            return video
        table = cast("FrameTable", getattr(video, "table", video))
        return cls(
            table.frame_count,
            table.width_px,
            table.height_px,
            tuple(table.pts.tolist()),
            table.time_base,
            getattr(video, "frame_names", ()),
            table.content_hash,
            table.container == "folder",
        )
