"""Which frame a picture's file name means, in files of labels by other tools.

A wrong frame is worse than an error: what a name does not say alone is refused, with the name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from micromodels.errors import InvalidInput

__all__ = ["FIRST_FRAMES", "frames_by_name", "frames_by_number"]

FIRST_FRAMES = (0, 1)
"""Numbers that tools give to the first frame of a video."""

_ENDING = r"(?:jpe?g|png|bmp|webp|tiff?|gif)"
_ROBOFLOW = re.compile(rf"(?P<stem>.+)_(?P<ending>{_ENDING})\.rf\.[0-9A-Za-z_-]{{6,}}\.\w+", re.IGNORECASE)
"""``frame_000012_png.rf.0a1b2c3d.jpg``: the old ending is part of the name, and a hash follows."""
_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")
"""``3e1b2c4d-frame_12.png``: uploads get a prefix."""
_ROBOFLOW_VIDEO = re.compile(r"_(?:mp4|mov|avi|mkv|webm|m4v|mpe?g|wmv)-[0-9]+$", re.IGNORECASE)

_NO_FRAME = re.compile(
    r"(?<![0-9.])[0-9]+\.[0-9]+(?![0-9.])|(?<![a-z0-9])(?:v[0-9]+|mp[234]|m4v|3gp|mpeg[124]|[hx]26[45]|[0-9]+[ip]|[0-9]+x[0-9]+"
    r"|[0-9]+(?:\.[0-9]+)?(?:fps|hz|ms|s|sec|min|px|k))(?![a-z0-9])",
    re.IGNORECASE,
)
"""Numbers that say another thing than a frame: versions, codecs, sizes, rates, times."""
_NUMBER = re.compile(r"[0-9]+")
_LONG_NUMBER = 4
"""Digits of a number that is written as tools number frames."""
_MAX_DIGITS = 12


def _base(path: str) -> str:
    """The file's name without folders, also of an address with the path in its query (Label Studio)."""
    return PurePosixPath(path.replace("\\", "/")).name.rpartition("?d=")[2]


def _stem(name: str) -> str:
    """The name without the ending of a picture; other points belong to the name."""
    return re.sub(rf"\.{_ENDING}$", "", name, flags=re.IGNORECASE)


def _original_names(name: str) -> list[str]:
    """What a picture may have been called before tools renamed it, as it is first."""
    names = [name, unquote(name)]
    for pattern, template in ((_LABEL_STUDIO, r"\g<name>"), (_ROBOFLOW, r"\g<stem>.\g<ending>")):
        names += [found.expand(template) for one in names if (found := pattern.fullmatch(one))]
    names += [_stem(one) for one in names if re.search(rf"\.{_ENDING}$", _stem(one), re.IGNORECASE)]
    return list(dict.fromkeys(names))


# --- folders of pictures ---------------------------------------------------------------------------------------------


def frames_by_name(frame_names: Sequence[str]) -> Callable[[str], int | None]:
    """How to find the picture of a folder that a file name means.

    Names are compared as they are, then without regard to case, then without their ending, then by their letters and
    digits alone; of a name that a tool has changed (a path, an upload's prefix, a hash) what it was before counts too.

    Args:
        frame_names: file names of the folder's pictures, in order of frames.

    Returns:
        A function that gives the frame of a file name, None where the folder has no such picture. It raises
        `InvalidInput` where several pictures are alike.
    """
    levels: list[tuple[Callable[[str], str], dict[str, list[int]]]] = []
    for key in (str, str.casefold, lambda name: _stem(name).casefold(), _letters_and_digits):
        frames: dict[str, list[int]] = defaultdict(list)
        for frame, name in enumerate(frame_names):
            frames[key(name)].append(frame)
        levels.append((key, frames))

    def find(file_name: str) -> int | None:
        base = _base(file_name)
        for names in ([base], _original_names(base)):
            for key, frames in levels:
                found = sorted({frame for name in names for frame in frames.get(key(name), ())})
                if len(found) > 1:
                    alike = ", ".join(frame_names[frame] for frame in found[:3])
                    raise InvalidInput("file_name", file_name, f"the name of one picture: {alike} are alike")
                if found:
                    return found[0]
        return None

    return find


def _letters_and_digits(name: str) -> str:
    return re.sub(r"[\W_]+", "-", _stem(name).casefold()).strip("-")


# --- videos ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Numbered:
    """The numbers in a picture's name that may be its frame's."""

    file_name: str
    stem: str
    numbers: tuple[re.Match[str], ...]

    @property
    def template(self) -> str:
        """The name without these numbers."""
        text = self.stem
        for match in reversed(self.numbers):
            text = f"{text[: match.start()]}#{text[match.end() :]}"
        return text


def frames_by_number(file_names: Mapping[str, str], first_frame: int | None) -> dict[str, int]:
    """The frames of pictures of a video, by the number in each file name.

    A name with several numbers is read by what is plain: the number after ``frame``, the only one that differs between
    names that are otherwise alike, or a long one at the end. Where these disagree or none holds, it is refused.

    Args:
        file_names: names by the places where they stand, which errors name.
        first_frame: number of the first frame, 0 or 1; None where nobody has said.

    Raises:
        InvalidInput: a name without a number, or with several of which none is plainly the frame's; a number below
            ``first_frame``; names that number pictures that a tool took at its own rate, unless ``first_frame`` is
            given.
    """
    found = {where: _numbered(name) for where, name in file_names.items()}
    alike: dict[str, list[_Numbered]] = defaultdict(list)
    for one in found.values():
        alike[one.template].append(one)
    differing = {template: _differing(group) for template, group in alike.items()}
    frames = {}
    for where, one in found.items():
        if first_frame is None and _ROBOFLOW_VIDEO.search(one.stem):
            allowed = (
                'a field "frame", or first_frame (0 or 1): the tool that wrote this name numbers the pictures that it '
                "took of a video, which may not be all frames"
            )
            raise InvalidInput(f"{where}: file_name", one.file_name, allowed)
        number = _frame_number(one, differing[one.template], where)
        if number < (first_frame or 0):
            raise InvalidInput(f"{where}: file_name", one.file_name, "a number from 1, as first_frame says")
        frames[where] = number - (first_frame or 0)
    return frames


def _numbered(file_name: str) -> _Numbered:
    stem = _stem(_original_names(_base(file_name))[-1])
    stem = PurePosixPath(stem).stem if re.search(r"\.[A-Za-z]\w{1,4}$", stem) else stem
    other = [match.span() for match in _NO_FRAME.finditer(re.sub("_", " ", stem))]
    numbers = [m for m in _NUMBER.finditer(stem) if not any(a <= m.start() < b for a, b in other)]
    return _Numbered(file_name, stem, tuple(numbers))


def _differing(alike: Sequence[_Numbered]) -> list[int]:
    """Places of the numbers in which names that are otherwise alike differ; none for a single name."""
    columns = zip(*([match.group() for match in one.numbers] for one in alike), strict=True)
    return [place for place, values in enumerate(columns) if len(set(values)) > 1]


def _frame_number(one: _Numbered, differing: Sequence[int], where: str) -> int:
    places = _plain(one, differing)
    if len(places) == 1:
        digits = one.numbers[places.pop()].group()
        if len(digits) <= _MAX_DIGITS:
            return int(digits)
    allowed = 'a name in which one number is plainly that of the frame (frame_000012.png), or a field "frame"'
    raise InvalidInput(f"{where}: file_name", one.file_name, allowed)


def _plain(one: _Numbered, differing: Sequence[int]) -> set[int]:
    """Places of the numbers that are plainly the frame's, by each rule that holds."""
    before = [one.stem[: match.start()] for match in one.numbers]
    named = [place for place, text in enumerate(before) if re.search(r"frame[ _.-]*$", text, re.IGNORECASE)]
    long = [place for place, match in enumerate(one.numbers) if len(match.group()) >= _LONG_NUMBER]
    last = len(one.numbers) - 1
    ends = last >= 0 and one.numbers[last].end() == len(one.stem)
    if last == 0:
        at_end = [0] if ends or long else []
    else:
        at_end = [last] if ends and long == [last] and re.search(r"[\W_]$", before[last]) else []
    return {rule[0] for rule in (named, differing, at_end) if len(rule) == 1}
