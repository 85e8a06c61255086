"""Labels by key, and what became of them: the words that corrections, identity tools and suggestions share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from micromodels.errors import InvalidInput
from micromodels.types import AnyLabel, FrameLabel, Label, check_frame, check_name

__all__ = ["LabelChange", "LabelKey", "by_frame", "grouped_by_frame", "same_but_for_provenance"]


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class LabelKey:
    """What a label is about: a track on a frame, or a frame class on a frame.

    Sorts by frame, object tracks before frame classes, then by name.

    Attributes:
        frame: frame index.
        is_frame_class: whether it is a frame class.
        name: the track's id, or the name of the frame class.

    Raises:
        InvalidInput: no frame index, or no name.
    """

    frame: int
    is_frame_class: bool = False
    name: str

    def __post_init__(self) -> None:
        check_frame(self.frame)
        check_name("name", self.name)

    @classmethod
    def of(cls, label: AnyLabel) -> LabelKey:
        """The key of a label."""
        if isinstance(label, Label):
            return cls(frame=label.frame, name=label.track)
        return cls(frame=label.frame, name=label.frame_class, is_frame_class=True)

    def __str__(self) -> str:
        return f"frame {self.frame} {'class' if self.is_frame_class else 'track'} {self.name!r}"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """One label replaced by another.

    Attributes:
        key: which label.
        before: what it was; None where there was none.
        after: what it is now; None where it is taken away.
        draft: whether another change of the same key may follow in the same stream.
    """

    key: LabelKey
    before: AnyLabel | None
    after: AnyLabel | None
    draft: bool = False

    @property
    def frame(self) -> int:
        """Frame index."""
        return self.key.frame


def same_but_for_provenance(one: AnyLabel | None, other: AnyLabel | None) -> bool:
    """Whether two labels say the same; predictions of two versions of a model may, but who a human is counts."""
    if one is None or other is None or type(one) is not type(other) or one.is_anchor or other.is_anchor:
        return one == other
    return replace(one, provenance=other.provenance) == other


def by_frame(labels: Iterable[AnyLabel]) -> Iterator[tuple[int, list[Label], list[FrameLabel]]]:
    """Frames in ascending order with their object labels and frame labels."""
    frames: dict[int, tuple[list[Label], list[FrameLabel]]] = {}
    for label in labels:
        objects, classes = frames.setdefault(label.frame, ([], []))
        if isinstance(label, Label):
            objects.append(label)
        else:
            classes.append(label)
    for frame in sorted(frames):
        yield (frame, *frames[frame])


def grouped_by_frame(labels: Iterable[AnyLabel]) -> Iterator[tuple[int, list[AnyLabel]]]:
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


def apply(labels: Mapping[LabelKey, AnyLabel], changes: Iterable[LabelChange]) -> dict[LabelKey, AnyLabel]:
    """The labels after the changes; ``labels`` itself stays as it is."""
    out = dict(labels)
    for change in changes:
        if change.after is None:
            out.pop(change.key, None)
        else:
            out[change.key] = change.after
    return out
