"""A package that is not this project's, with one label format: what its author writes and what an installer leaves."""

from __future__ import annotations

from pathlib import Path

__all__ = ["install_format"]

MODULE = '''
"""Boxes as text, six fields a line."""

from micromodels.errors import InvalidInput
from micromodels.labels.formats import LabelFormat, LabelPart
from micromodels.types import Box, Label, State


def write(path, labels, video, options):
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for label in labels:
            if isinstance(label, Label) and isinstance(label.shape, Box) and label.state is State.VISIBLE:
                file.write(" ".join(map(str, [label.frame, label.object_class, *label.shape.as_list()])) + "\\n")
                count += 1
    return count


def read(path, video, options):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"line {number}"
        try:
            frame, name, *corners = line.split()
            yield where, Label(int(frame), name, name, State.VISIBLE, Box(*map(float, corners)))
        except (TypeError, ValueError):
            raise InvalidInput(where, line, "a frame, a class and four numbers") from None


FORMAT = LabelFormat(
    name="corners",
    title="corners of boxes",
    file_name="boxes.corners",
    extension=".corners",
    keeps=frozenset({LabelPart.BOXES}),
    loses="Keeps visible boxes and their classes alone.",
    read=read,
    write=write,
)
'''


def install_format(folder: Path, value: str = "corners_format:FORMAT") -> None:
    """Put the package into a folder, as an installer would.

    Args:
        folder: made if needed; it must come to ``sys.path``.
        value: what the entry point names.
    """
    info = folder / "corners_format-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "corners_format.py").write_text(MODULE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: corners-format\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[micromodels.label_formats]\ncorners = {value}\n", encoding="utf-8")
