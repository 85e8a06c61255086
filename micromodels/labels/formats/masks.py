"""Masks as pictures: one indexed PNG a frame, in which the value of a pixel is the number of a track (as in DAVIS)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.errors import InvalidInput
from micromodels.labels.formats import FormatOptions, LabelFormat, LabelPart, known_video
from micromodels.labels.geometry import to_mask
from micromodels.labels.keys import grouped_by_frame
from micromodels.labels.strict_json import to_json
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Label

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["FORMAT"]

MAX_TRACKS = 65_535


def _write(folder: Path, labels: Iterable[AnyLabel], video: VideoInfo | None, options: FormatOptions) -> int:
    """Write ``000000.png`` and on for every frame of the video, and ``tracks.json``.

    0 is background; a pixel with the value n belongs to the track whose entry in ``tracks.json`` has ``"value": n``.
    PNGs are 8 bit with a palette, 16 bit gray on frames that need a value over 255. Boxes are filled. Where objects
    overlap, the one with fewer pixels is on top, as in training; of equal ones the later.

    Raises:
        InvalidInput: labels that are not in order of frames, or more than `MAX_TRACKS` tracks.
    """
    import numpy as np

    video = known_video(video)
    folder.mkdir()
    values: dict[str, tuple[int, str]] = {}
    groups = grouped_by_frame(labels)
    frame, group = next(groups, (video.frame_count, []))
    count = 0
    for index in range(video.frame_count):
        picture = np.zeros((video.height_px, video.width_px), np.uint16)
        if frame == index:
            painted = []
            for label in group:
                if isinstance(label, Label) and label.shape is not None:
                    value, _ = values.setdefault(label.track, (len(values) + 1, label.object_class))
                    if value > MAX_TRACKS:
                        raise InvalidInput("track", label.track, f"at most {MAX_TRACKS} tracks")
                    painted.append((value, to_mask(label.shape, video.height_px, video.width_px)))
                    count += 1
            for value, mask in sorted(painted, key=lambda item: -np.count_nonzero(item[1])):
                picture[mask] = value
            frame, group = next(groups, (video.frame_count, []))
        _write_png(folder / f"{index:06d}.png", picture)
    tracks = [{"value": value, "track": track, "class": name} for track, (value, name) in values.items()]
    (folder / "tracks.json").write_text(to_json(tracks) + "\n", encoding="utf-8")
    return count


def _write_png(path: Path, picture: npt.NDArray[np.uint16]) -> None:
    import numpy as np
    from PIL import Image

    if picture.max(initial=0) > 255:
        Image.fromarray(picture).save(path)
        return
    image = Image.fromarray(picture.astype(np.uint8), mode="P")
    image.putpalette(_palette())
    image.save(path)


def _palette() -> bytes:
    """The palette of PASCAL VOC and DAVIS: the bits of the value spread over red, green and blue, highest first."""
    import numpy as np

    colors = np.zeros((256, 3), np.uint8)
    for value in range(256):
        for bit in range(8):
            # Bit 0 of every group of three goes to red, 1 to green, 2 to blue.
            colors[value, bit % 3] |= (value >> bit & 1) << (7 - bit // 3)
    return colors.tobytes()


FORMAT = LabelFormat(
    name="masks",
    title="Indexed PNG masks",
    file_name="masks",
    extension="",
    keeps=frozenset({LabelPart.MASKS, LabelPart.TRACKS}),
    loses="Keeps pixels, tracks and classes alone. Boxes are filled; where objects overlap, the smaller is on top.",
    write=_write,
)
