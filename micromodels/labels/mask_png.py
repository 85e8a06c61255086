"""Label pictures: one indexed PNG a frame, the pixel's value being the number of the track."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from micromodels.errors import InvalidInput
from micromodels.labels.geometry import to_mask
from micromodels.labels.jsonl import atomic_text, to_json
from micromodels.labels.validation import check_fits_video
from micromodels.types import AnyLabel, Label

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["by_frame", "write_masks"]

MAX_TRACKS = 65_535


def by_frame(labels: Iterable[AnyLabel]) -> Iterator[tuple[int, list[AnyLabel]]]:
    """Group labels that come in order of frames, one group in memory at a time.

    Raises:
        InvalidInput: the frames go backwards.
    """
    last = -1
    for frame, group in groupby(labels, key=lambda label: label.frame):
        if frame < last:
            raise InvalidInput("frame", frame, f"labels in order of frames; frame {last} came before")
        last = frame
        yield frame, list(group)


def write_masks(
    folder: Path | str, labels: Iterable[AnyLabel], *, frame_count: int, width_px: int, height_px: int
) -> int:
    """Write ``000000.png`` and on for every frame of the video, and ``tracks.json``; returns the number of frames.

    0 is background; a pixel with the value n belongs to the track whose entry in ``tracks.json`` has ``"value": n``.
    PNGs are 8 bit with a palette (as DAVIS has them), 16 bit gray from the frame on where there are more than 255
    tracks. Boxes are filled. Where objects overlap, the later label of the frame is on top.

    Args:
        folder: made if it is not there.
        labels: in order of frames.
        frame_count: of the video.
        width_px: of the video.
        height_px: of the video.

    Raises:
        InvalidInput: a label that does not fit the video, labels out of order, or more than `MAX_TRACKS` tracks.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, tuple[int, str]] = {}
    groups = by_frame(labels)
    frame, group = next(groups, (frame_count, []))
    for index in range(frame_count):
        picture = np.zeros((height_px, width_px), np.uint16)
        while frame == index:
            for label in group:
                check_fits_video(label, frame_count=frame_count, width_px=width_px, height_px=height_px)
                if isinstance(label, Label) and label.shape is not None:
                    value, _ = values.setdefault(label.track, (len(values) + 1, label.object_class))
                    if value > MAX_TRACKS:
                        raise InvalidInput("track", label.track, f"at most {MAX_TRACKS} tracks")
                    picture[to_mask(label.shape, height_px, width_px)] = value
            frame, group = next(groups, (frame_count, []))
        _write_png(folder / f"{index:06d}.png", picture)
    if frame != frame_count or group:
        check_fits_video(group[0], frame_count=frame_count)
    with atomic_text(folder / "tracks.json") as file:
        tracks = [{"value": value, "track": track, "class": name} for track, (value, name) in values.items()]
        file.write(to_json(tracks) + "\n")
    return frame_count


def _write_png(path: Path, picture: npt.NDArray[np.uint16]) -> None:
    from PIL import Image

    if picture.max(initial=0) > 255:
        Image.fromarray(picture).save(path)
        return
    image = Image.fromarray(picture.astype(np.uint8), mode="P")
    image.putpalette(_palette())
    image.save(path)


def _palette() -> bytes:
    """The palette of PASCAL VOC and DAVIS: the bits of the value spread over red, green and blue, highest first."""
    colors = np.zeros((256, 3), np.uint8)
    for value in range(256):
        for bit in range(8):
            # Bit 0 of every group of three goes to red, 1 to green, 2 to blue.
            colors[value, bit % 3] |= (value >> bit & 1) << (7 - bit // 3)
    return colors.tobytes()
