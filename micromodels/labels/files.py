"""Files of labels in every format, read and written.

Whatever is wrong with a file is an `InvalidInput` (or `OutOfRange`) that names the line or entry, the field, what it
got and what is allowed. Only trifles that leave no doubt are repaired, with one warning that counts them;
`FormatOptions` says where the warning goes, and whether to refuse them instead. A written file appears under its name
when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.formats import (
    FormatOptions,
    LabelFormat,
    Reader,
    Writer,
    find_format,
    format_to_read,
    format_to_write,
    label_formats,
)
from micromodels.labels.repairs import Repairs
from micromodels.labels.validation import MAX_CUT_PX, LabelSet, check_anchor, check_fits_video, cut_to_video
from micromodels.labels.video_info import VideoInfo
from micromodels.runtime.atomic import atomic_path
from micromodels.types import AnyLabel, Label

if TYPE_CHECKING:
    from micromodels.video import ArrayVideo, FrameTable, Video

    AnyVideo = Video | ArrayVideo | FrameTable | VideoInfo

__all__ = ["iter_labels", "read_labels", "write_labels"]

_NO_OPTIONS = FormatOptions()


def read_labels(
    path: str | os.PathLike[str],
    *,
    video: AnyVideo | None = None,
    format: str | None = None,
    options: FormatOptions = _NO_OPTIONS,
) -> list[AnyLabel]:
    """Read a file or folder of labels, whole.

    Args:
        path: the file or folder.
        video: that the labels are of: an open video, its frame table, or a `VideoInfo`; None to accept any frame,
            coordinate and mask size, where the format does not need to know the video.
        format: name of the format; None to go by the ending of the name and, where that does not tell, by the content.
        options: what some formats ask for beside.

    Raises:
        InvalidInput: names the line or entry, the field, the value and what is allowed; also a format that is not known
            or cannot be read.
        OutOfRange: a frame or coordinate outside of the video.
    """
    return list(iter_labels(path, video=video, format=format, options=options))


def iter_labels(
    path: str | os.PathLike[str],
    *,
    video: AnyVideo | None = None,
    format: str | None = None,
    options: FormatOptions = _NO_OPTIONS,
) -> Iterator[AnyLabel]:
    """Read labels one by one in the order of the file, as `read_labels` does; memory stays flat with JSON Lines.

    What is wrong with the file is raised when the place is reached.

    Raises:
        InvalidInput: as for `read_labels`.
        OutOfRange: as for `read_labels`.
    """
    path = Path(path)
    known = VideoInfo.of(video) if video is not None else None
    options = replace(options, repairs=Repairs())
    read = _reader(find_format(format) if format is not None else format_to_read(path))
    return _mended(path, _checked(read(path, known, options), known, options), options)


def _mended(path: Path, labels: Iterator[AnyLabel], options: FormatOptions) -> Iterator[AnyLabel]:
    """The labels, and at their end one warning of all that was repaired."""
    yield from labels
    summary = options.repairs.summary(path.name)
    if summary is not None:
        options.warn(summary)


def _checked(
    found: Iterable[tuple[str, AnyLabel]], video: VideoInfo | None, options: FormatOptions
) -> Iterator[AnyLabel]:
    """What holds in every format: human labels say one clear thing, and labels fit the video and each other."""
    seen = LabelSet()
    for where, label in found:
        if video is not None:
            label = _fitted(label, video, where, options)
        check_anchor(label, where)
        seen.add(label, where)
        yield label


def _fitted(label: AnyLabel, video: VideoInfo, where: str, options: FormatOptions) -> AnyLabel:
    """A label that fits the video; a shape that reaches a little over the edge is cut to the picture."""
    try:
        check_fits_video(label, video, where)
    except OutOfRange as error:
        cut = cut_to_video(label, video) if isinstance(label, Label) else None
        if cut is None:
            raise
        options.repair(f"shapes up to {MAX_CUT_PX:g} px over the edge, cut to the picture", error)
        return cut
    return label


def write_labels(
    path: str | os.PathLike[str],
    labels: Iterable[AnyLabel],
    *,
    video: AnyVideo | None = None,
    format: str | None = None,
    options: FormatOptions = _NO_OPTIONS,
) -> int:
    """Write labels as they come, and return how many of them are in the file; a lossy format leaves some out.

    The file or folder appears under its name when it is complete; an error leaves what was there before. A file is
    replaced, a folder only where it is empty.

    Args:
        path: the file or folder; the folder that it lies in is there.
        labels: of one video; some formats want them in order of frames.
        video: that the labels are of: an open video, its frame table, or a `VideoInfo`; None where the format does not
            need to know it, and then labels are not checked against it.
        format: name of the format; None to go by the ending of the name.
        options: what some formats ask for beside.

    Raises:
        InvalidInput: a label that does not fit the video or could not be read back, a format that is not known, cannot
            be written or needs the video, or a folder that is not empty.
        OutOfRange: a frame or coordinate outside of the video.
    """
    path = Path(path)
    known = VideoInfo.of(video) if video is not None else None
    chosen = find_format(format) if format is not None else format_to_write(path)
    write = _writer(chosen)
    if chosen.is_folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidInput("folder", str(path), "an empty folder, or one that is not there yet")
    with atomic_path(path) as partial:
        return write(partial, _fitting(labels, known), known, options)


def _fitting(labels: Iterable[AnyLabel], video: VideoInfo | None) -> Iterator[AnyLabel]:
    """Labels that could be read back."""
    for number, label in enumerate(labels, 1):
        where = f"label {number}"
        check_anchor(label, where)
        if video is not None:
            check_fits_video(label, video, where)
        yield label


def _reader(chosen: LabelFormat) -> Reader:
    if chosen.read is None:
        possible = ", ".join(one.name for one in label_formats() if one.can_read)
        raise InvalidInput("format", chosen.name, f"a format that can be read: {possible}")
    return chosen.read


def _writer(chosen: LabelFormat) -> Writer:
    if chosen.write is None:
        possible = ", ".join(one.name for one in label_formats() if one.can_write)
        raise InvalidInput("format", chosen.name, f"a format that can be written: {possible}")
    return chosen.write
