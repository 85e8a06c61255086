"""Reads an audit report without a server: checks that it is complete, and sums up who did what.

Reads the output of ``service.reports.audit_report`` line by line; memory does not grow with the number of labels.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from micromodels.errors import InvalidInput

__all__ = ["COLUMNS", "ReviewSummary", "Row", "read_report"]

COLUMNS = (
    "frame",
    "track",
    "frame_class",
    "class",
    "value",
    "state",
    "drawn_by",
    "drawn_at",
    "predicted_by",
    "predicted_at",
    "corrected_by",
    "accepted_by",
    "accepted_at",
    "review",
    "locked",
    "versions",
)
"""Columns of one row per label; ``predicted_by`` is the micro-model version of the newest prediction."""

_FORMAT = 1
_MAX_PROBLEMS = 20
_KINDS = ("video", "change", "label", "micro_model", "comment", "summary")
Row = dict[str, Any]


@dataclass(slots=True)
class ReviewSummary:
    """Summary of a report.

    Attributes:
        video: the entry of the video.
        people: by name, how many current labels they drew, corrected and accepted, and how many changes they made.
        models: by version, its entry; the counts of its current, past, accepted and corrected labels; and the sum of
            the IoU of the corrected ones with their correction.
        states: number of labels by current state: human, predicted, deleted.
        changes: by kind.
        comments: all comments, unchanged.
        problems: inconsistencies; empty if the report is complete.
    """

    video: Mapping[str, Any] = field(default_factory=dict)
    people: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    models: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    states: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    comments: list[Mapping[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_report(path: Path, on_label: Callable[[Row], None] = lambda row: None) -> ReviewSummary:
    """Read a report.

    Args:
        path: ``review_report.jsonl``.
        on_label: called with a row of ``COLUMNS`` for every label, in the order of frames.

    Raises:
        InvalidInput: not an audit report; the error names the line.
        OSError: the file cannot be read.
    """
    found = ReviewSummary()
    reader = _Reader(found)
    for number, (kind, entry) in enumerate(_entries(path), start=1):
        if (number == 1) != (kind == "video"):
            raise InvalidInput(f"line {number}", kind, "the video entry in the first line, and only there")
        try:
            row = reader.take(kind, entry)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInput(f"line {number}", kind, f"an entry written by a server export ({error!r})") from None
        if row is not None:
            on_label(row)
    reader.conclude()
    return found


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"line {number}", line[:40], f"JSON: {error}") from None
            if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in _KINDS:
                raise InvalidInput(f"line {number}", line[:40], f"an object with one key of {', '.join(_KINDS)}")
            yield next(iter(entry.items()))


class _Reader:
    """Reads entries one by one, and checks them against each other."""

    def __init__(self, found: ReviewSummary) -> None:
        self._found = found
        self._authors: dict[int, str] = {}
        """Author by revision."""
        self._last = 0
        self._summary: Mapping[str, int] | None = None
        self._accepted = self._corrected = 0

    def take(self, kind: str, entry: Mapping[str, Any]) -> Row | None:
        """Read an entry; returns the row of a label."""
        found = self._found
        if kind == "video":
            if entry["format"] != _FORMAT:
                raise ValueError(f"format {entry['format']}; this version reads {_FORMAT}")
            found.video = entry
        elif kind == "change":
            self._take_change(entry)
        elif kind == "label":
            return self._take_label(entry)
        elif kind == "micro_model":
            found.models[entry["name"]] = {**found.models[entry["name"]], **entry}
        elif kind == "comment":
            found.comments.append(entry)
        else:
            self._summary = entry
        return None

    def _take_change(self, entry: Mapping[str, Any]) -> None:
        first, last = int(entry["revision"]), int(entry.get("last_revision", entry["revision"]))
        if first != self._last + 1:
            self._wrong(f"revisions {self._last + 1} to {first - 1} are missing")
        self._last = last
        for revision in range(first, last + 1):
            self._authors[revision] = entry["author"]
        self._found.changes[entry["kind"]] += 1
        self._found.people[entry["author"]]["changes"] += 1

    def _take_label(self, entry: Mapping[str, Any]) -> Row:
        found, now = self._found, entry["now"]
        where = f"frame {entry['frame']} {entry.get('track', entry.get('frame_class'))!r}"
        row: Row = {"frame": entry["frame"], "track": entry.get("track", ""), "state": entry["state"]}
        row |= {"frame_class": entry.get("frame_class", ""), "review": entry["review"], "locked": entry["locked"]}
        row |= {"versions": len(entry["history"]), "corrected_by": " ".join(entry["corrected_by"])}
        if now is not None:
            row |= {"class": now["class"], "value": now["state"]}
        for version in entry["history"]:
            self._check_version(version, where)
            row |= _of_version(version)
            if "micro_model" in version:
                found.models[version["micro_model"]].setdefault("ever", 0)
                found.models[version["micro_model"]]["ever"] += 1
            if "replaced" in version:
                model = found.models[version["replaced"]["micro_model"]]
                model["corrected"] = model.get("corrected", 0) + 1
                model["overlaps"] = model.get("overlaps", 0.0) + float(version["replaced"]["overlap"])
        if entry["history"] and entry["history"][-1]["label"] != now:
            self._wrong(f"{where}: its last version differs from its current state")
        if entry["state"] == "predicted":
            model = found.models[row.get("predicted_by", "")]
            model["standing"] = model.get("standing", 0) + 1
            model["accepted"] = model.get("accepted", 0) + (entry["review"] == "accepted")
        found.states[entry["state"]] += 1
        self._accepted += entry["review"] == "accepted"
        self._corrected += bool(entry["corrected_by"])
        for name, what in (("drawn_by", "drew"), ("corrected_by", "corrected"), ("accepted_by", "accepted")):
            for person in entry[name]:
                found.people[person][what] += 1
        return row

    def _check_version(self, version: Mapping[str, Any], where: str) -> None:
        author = self._authors.get(version["revision"])
        if author is None:
            self._wrong(f"{where}: its revision {version['revision']} belongs to no change")
        elif author != version["author"]:
            self._wrong(f"{where}: revision {version['revision']} is by {author!r}, not by {version['author']!r}")

    def conclude(self) -> None:
        """Check the entries against the summary."""
        states = self._found.states
        if self._summary is None:
            self._wrong("the summary is missing: the file is cut off")
            return
        if self._last != self._found.video["label_revision"]:
            self._wrong(f"changes end at revision {self._last}, not {self._found.video['label_revision']}")
        counted = {**states, "accepted": self._accepted, "corrected": self._corrected}
        for name in sorted({*counted, *self._summary}):
            if counted.get(name, 0) != self._summary.get(name, 0):
                self._wrong(f"{counted.get(name, 0)} labels are {name}; the summary says {self._summary.get(name, 0)}")

    def _wrong(self, problem: str) -> None:
        if len(self._found.problems) < _MAX_PROBLEMS:
            self._found.problems.append(problem)


def _of_version(version: Mapping[str, Any]) -> Row:
    """Who drew, predicted and accepted one version; later versions overwrite earlier ones."""
    row: Row = {}
    if "micro_model" in version:
        row |= {"predicted_by": version["micro_model"], "predicted_at": version["time"]}
    elif version["label"] is not None and "brought_from" not in version:
        row |= {"drawn_by": version["author"], "drawn_at": version["time"]}
    for event in version.get("reviews", ()):
        if event["action"] == "accept":
            row |= {"accepted_by": event["author"], "accepted_at": event["time"]}
    return row
