"""Label formats: what one is, and which there are. Every other module of this folder is one format.

A new format is a module here, under its name, with a `LabelFormat` called ``FORMAT``; or, in a package of its own, such
an object under the entry-point group ``micromodels.label_formats``. The command line, the API and the page list it from
here. Modules of formats are imported to list them: what takes long to import is imported inside of functions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from micromodels.errors import InvalidInput
from micromodels.labels.picture_names import FIRST_FRAMES
from micromodels.labels.repairs import Repairs
from micromodels.labels.validation import prefixed
from micromodels.labels.video_info import VideoInfo
from micromodels.runtime.registry import Registry
from micromodels.types import AnyLabel, Ontology

__all__ = [
    "FORMATS",
    "FormatOptions",
    "LabelFormat",
    "LabelPart",
    "Reader",
    "Writer",
    "find_format",
    "format_to_read",
    "format_to_write",
    "known_video",
    "label_formats",
]

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_EXTENSION = re.compile(r"(?:\.[a-z0-9-]+)+")


class LabelPart(StrEnum):
    """What a file can keep of labels."""

    BOXES = "boxes"
    POLYGONS = "polygons"
    MASKS = "masks"
    STATES = "states"
    """Also of objects that are absent."""
    FRAME_CLASSES = "frame_classes"
    CONFIDENCE = "confidence"
    TRACKS = "tracks"
    """Which object is which on other frames, under the same id."""
    PROVENANCE = "provenance"


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What a reader or writer may use beside the labels and the video.

    Raises:
        InvalidInput: a first frame that is not allowed.
    """

    ontology: Ontology | None = None
    """Classes in the order in which a format numbers them; None for the order in which labels name them."""

    strict: bool = False
    """Whether reading refuses trifles that it would repair with a warning."""

    first_frame: int | None = None
    """Number of the first frame, 0 or 1, where a file names the pictures of a video by numbers; None to read them as
    counted from 0, with a warning where none is 0."""

    rotated_as_boxes: bool = False
    """Whether a rotated box is read as the upright box around it, and not as a polygon."""

    warn: Callable[[str], None] = _LOG.warning
    """Gets each warning of reading, a sentence for people; logged by default."""

    repairs: Repairs = field(default_factory=Repairs, repr=False, compare=False)
    """What reading has repaired so far; `micromodels.labels.files` begins each file with an empty one, and warns."""

    def __post_init__(self) -> None:
        if self.first_frame is not None and (type(self.first_frame) is not int or self.first_frame not in FIRST_FRAMES):
            raise InvalidInput(
                "first_frame", self.first_frame, "0 or 1: the number of the first frame; None if unknown"
            )

    def repair(self, what: str, error: InvalidInput, where: str = "") -> None:
        """Count a trifle that a reader repairs.

        Args:
            what: what is wrong and what is done, in the plural: ``"boxes over the edge, cut to the picture"``.
            error: names the field.
            where: the entry, if the error does not name it.

        Raises:
            InvalidInput: the error as it is, if reading is strict.
        """
        if self.strict:
            raise error
        self.repairs.add(what, prefixed(where, error.field))

    def without_nulls(
        self, entry: Mapping[str, Any], keys: Iterable[str], where: str, parent: str = ""
    ) -> dict[str, Any]:
        """The entry without those of the keys whose value is null, which tools write where they have nothing to say.

        Args:
            entry: a JSON object of the file.
            keys: that may be left out.
            where: the entry's place.
            parent: put before a key in errors and warnings, such as ``"attributes."``.

        Raises:
            InvalidInput: a null, if reading is strict.
        """
        found = dict(entry)
        for key in keys:
            if key in found and found[key] is None:
                del found[key]
                error = InvalidInput(parent + key, None, "a value; leave the key out for none")
                self.repair("fields that are null, taken as left out", error, where)
        return found


Reader = Callable[[Path, VideoInfo | None, FormatOptions], Iterable[tuple[str, AnyLabel]]]
"""Gives each label of a file with the place where it stands (``"line 3"``), which errors name.

A reader checks what is its format's own, and raises `InvalidInput` for all that is wrong. What holds in every format
is checked by whoever calls it (`micromodels.labels.files`): that labels fit the video, and each other."""

Writer = Callable[[Path, Iterable[AnyLabel], VideoInfo | None, FormatOptions], int]
"""Writes labels to a path where nothing is yet, a new file or folder, and gives how many of them are in it.

The labels fit the video. They come in any order, once; memory should not grow with their number. The path is a
temporary one: `micromodels.labels.files.write_labels` renames it when the writer has returned."""


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """One form of files of labels: what it is called, what it keeps, and how it is read and written.

    Raises:
        InvalidInput: a field holds what is not allowed, or the fields do not fit each other.
    """

    name: str
    """What the command line and the API call it: ``coco``."""

    title: str
    """For people, a few words: ``COCO instances``."""

    file_name: str
    """What an export is called: ``coco.json``; of a format that is a folder of files, the folder's name."""

    extension: str
    """How its files end, in lower case: ``.json``; empty where it is a folder. Where another format ends alike, a
    longer ending of its own (``.cvat.xml``) says which is meant when a file is written."""

    keeps: frozenset[LabelPart]
    """What comes back as it was when a file is written and read, or would if it could be read."""

    loses: str
    """One plain sentence on what is left out, changed, or passed over by other programs; empty where nothing is."""

    read: Reader | None = None
    """None where it can only be written."""

    write: Writer | None = None
    """None where it can only be read."""

    sniff: Callable[[Path], bool] | None = None
    """Whether a file or folder looks like this format; asked where the ending alone does not tell. A folder format that
    can be read has it."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput("format.name", self.name, "lower-case words of letters and digits, joined by - or _")
        if not self.title or not self.file_name or "/" in self.file_name:
            raise InvalidInput("format.file_name", self.file_name, "a title, and a file name without folders")
        if self.extension and not _EXTENSION.fullmatch(self.extension):
            raise InvalidInput("format.extension", self.extension, "an ending such as .json; empty for a folder")
        if not self.file_name.endswith(self.extension):
            raise InvalidInput("format.file_name", self.file_name, f"a name that ends in {self.extension}")
        if not self.loses and self.keeps != frozenset(LabelPart):
            lost = ", ".join(part.value for part in LabelPart if part not in self.keeps)
            raise InvalidInput("format.loses", self.loses, f"a sentence: the format does not keep {lost}")
        if self.read is None and self.write is None:
            raise InvalidInput("format.read", None, "a reader, a writer, or both")
        if self.is_folder and self.can_read and self.sniff is None:
            raise InvalidInput("format.sniff", None, "a function: a folder's name does not tell what is in it")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files and not one file."""
        return not self.extension

    @property
    def can_read(self) -> bool:
        """Whether labels can be read from it."""
        return self.read is not None

    @property
    def can_write(self) -> bool:
        """Whether labels can be written in it."""
        return self.write is not None

    def __str__(self) -> str:
        return f"{self.name} ({self.title}, {self.extension or 'a folder'})"


def known_video(video: VideoInfo | None) -> VideoInfo:
    """The video, for readers and writers that cannot do without.

    Raises:
        InvalidInput: it is not given.
    """
    if video is None:
        raise InvalidInput("video", None, "the video: this format needs its number of frames and its size")
    return video


# --- which there are -------------------------------------------------------------------------------------------------


def _name_of(found: LabelFormat) -> str:
    if not isinstance(found, LabelFormat):  # an entry point may name anything
        raise TypeError(f"a {type(found).__name__} is not a LabelFormat")
    return found.name


FORMATS: Registry[LabelFormat] = Registry("format", __name__, "micromodels.label_formats", "FORMAT", _name_of)


def label_formats() -> tuple[LabelFormat, ...]:
    """All formats: those of this folder, then those of installed packages, each in the order of their names."""
    return tuple(FORMATS.all())


def find_format(name: str) -> LabelFormat:
    """The format of that name.

    Raises:
        InvalidInput: it is not known here.
    """
    return FORMATS.get(name)


def format_to_read(path: Path) -> LabelFormat:
    """The format of a file or folder, by its ending and, where several formats share that, by its content.

    Raises:
        InvalidInput: no format that can be read is like this, or several are.
    """
    readable = [one for one in label_formats() if one.can_read]
    if path.is_dir():
        found = [one for one in readable if one.is_folder and _looks_like(one, path)]
    else:
        found = [one for one in readable if not one.is_folder and _suffix(one.extension) == _suffix(path.name)]
        if len(found) > 1:
            found = [one for one in found if _looks_like(one, path)] or found
    return _only(found, path, readable)


def format_to_write(path: Path) -> LabelFormat:
    """The format whose ending a name has; of several the one with the longest, and of those the first.

    Raises:
        InvalidInput: none has it.
    """
    writable = [one for one in label_formats() if one.can_write]
    found = [one for one in writable if one.extension and path.name.lower().endswith(one.extension)]
    return _only(sorted(found, key=lambda one: len(one.extension), reverse=True)[:1], path, writable)


def _suffix(name: str) -> str:
    """What follows the last point, of ``.cvat.xml`` as of ``a.xml``."""
    return name.lower().rpartition(".")[2]


def _looks_like(one: LabelFormat, path: Path) -> bool:
    return one.sniff is not None and one.sniff(path)


def _only(found: list[LabelFormat], path: Path, possible: list[LabelFormat]) -> LabelFormat:
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidInput("format", str(path), f"the format by name, one of {', '.join(one.name for one in found)}")
    raise InvalidInput("file", str(path), f"a file or folder of one of these formats: {'; '.join(map(str, possible))}")
