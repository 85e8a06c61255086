"""The audit report: who drew, accepted and corrected each label, with which micro-model, and when.

JSON Lines, each an object with one key: ``video``; ``micro_model`` for every version that wrote a label; ``change`` for
every change of the labels, oldest first; ``label`` for every current or deleted label, with its history; ``comment``;
and at the end ``summary``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micromodels.labels.label_json import label_to_dict
from service.domain.errors import NotFound
from service.domain.history import Change, LabelVersion
from service.reports.quality import ChangeIndex, all_changes, verdicts_on

if TYPE_CHECKING:
    from service.store import Store

__all__ = ["FILE_NAME", "write_report"]

FILE_NAME = "review_report.jsonl"

_FORMAT = 1
_FRAMES_AT_ONCE = 200


def write_report(store: Store, project_id: str, video_id: str, path: Path, alive: Callable[[], None]) -> None:
    """Write the report of a video.

    Args:
        store: source of the data.
        project_id: the video's project.
        video_id: which video.
        path: the file.
        alive: called regularly, as a heartbeat.
    """
    counts: Counter[str] = Counter()
    models: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for kind, entry in _entries(store, project_id, video_id, counts, models):
            file.write(json.dumps({kind: entry}, ensure_ascii=False) + "\n")
            alive()


def _entries(
    store: Store, project_id: str, video_id: str, counts: Counter[str], models: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    video = store.videos.get(project_id, video_id)
    yield (
        "video",
        {
            "format": _FORMAT,
            "project": project_id,
            "video": video_id,
            "content_sha256": video.content_hash,
            "frames": video.frame_count,
            "label_revision": video.label_revision,
        },
    )
    acts = ChangeIndex(all_changes(store, project_id, video_id))
    size = (video.height_px, video.width_px)
    for change in acts.all:
        yield "change", _change(change)
    for start in range(0, video.frame_count, _FRAMES_AT_ONCE):
        frames = range(start, min(start + _FRAMES_AT_ONCE, video.frame_count))
        versions: list[LabelVersion] = []
        for version in store.history.of_frames(project_id, video_id, frames):
            if versions and versions[-1].record.key != version.record.key:
                yield "label", _label(versions, counts, models, _replaced(versions, acts, size))
                versions = []
            versions.append(version)
        if versions:
            yield "label", _label(versions, counts, models, _replaced(versions, acts, size))
    for name in sorted(models):
        yield "micro_model", _model(store, project_id, name)
    after = ""
    while True:
        page = store.reviews.comments(project_id, video_id, after=after)
        for comment in page.items:
            about = {"start_frame": comment.start_frame, "stop_frame": comment.stop_frame, "track": comment.name}
            yield (
                "comment",
                {**about, "text": comment.text, "author": comment.author, "time": _time(comment.created_at)},
            )
        after = page.next_after
        if not after:
            break
    yield "summary", dict(counts)


def _change(change: Change) -> dict[str, Any]:
    entry: dict[str, Any] = {"revision": change.revision, "kind": change.kind.value, "author": change.author}
    entry |= {"time": _time(change.written_at), "labels": change.label_count}
    rest = {
        "last_revision": change.last_revision if change.last_revision != change.revision else 0,
        "operation": change.job_id,
        "micro_model": change.model_version,
        "learned_from": change.learned,
        "follows_from": change.parent,
        "undoes": change.undoes,
        "undone_by": change.undone_by,
        "comment": change.comment,
    }
    return entry | {name: value for name, value in rest.items() if value}


def _replaced(versions: list[LabelVersion], acts: ChangeIndex, size: tuple[int, int]) -> dict[int, dict[str, Any]]:
    """By revision of a hand label: the micro-model version that it replaced, and the IoU with its prediction."""
    return {
        verdict.revision: {
            "micro_model": verdict.predicted.provenance.version,
            "overlap": round(verdict.overlap, 4),
        }
        for verdict in verdicts_on(versions, acts, size)
        if verdict.drawn is not None
    }


def _label(
    versions: list[LabelVersion], counts: Counter[str], models: set[str], replaced_by: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """One key with its history; its current state comes first."""
    newest = versions[-1].record
    key = {"frame": newest.key.frame, ("frame_class" if newest.key.is_frame_class else "track"): newest.key.name}
    history = [_version(version, models) for version in versions]
    for version in history:
        if version["revision"] in replaced_by:
            version["replaced"] = replaced_by[version["revision"]]
    drawn = [version for version in versions if version.record.label is not None and version.record.label.is_anchor]
    replaced = [
        new.record.author
        for old, new in pairwise(versions)
        if old.record.label is not None and not old.record.label.is_anchor and not new.kind.is_machine
    ]
    accepted = [event.author for version in versions for event in version.reviews if event.action.value == "accept"]
    state = "deleted" if newest.label is None else "human" if newest.label.is_anchor else "predicted"
    counts[state] += 1
    counts["accepted"] += newest.review.value == "accepted"
    counts["corrected"] += bool(replaced)
    return {
        **key,
        "now": None if newest.label is None else label_to_dict(newest.label),
        "state": state,
        "review": newest.review.value,
        "locked": newest.locked,
        "drawn_by": list(dict.fromkeys(version.record.author for version in drawn if version.origin is None)),
        "corrected_by": list(dict.fromkeys(replaced)),
        "accepted_by": list(dict.fromkeys(accepted)),
        "history": history,
    }


def _version(version: LabelVersion, models: set[str]) -> dict[str, Any]:
    record = version.record
    entry: dict[str, Any] = {"revision": record.revision, "kind": version.kind.value, "author": record.author}
    entry["time"] = _time(record.written_at)
    if record.job_id:
        entry["operation"] = record.job_id
    if record.label is not None and not record.label.is_anchor and record.label.provenance.version:
        entry["micro_model"] = record.label.provenance.version
        models.add(record.label.provenance.version)
    entry["label"] = None if record.label is None else label_to_dict(record.label)
    if version.origin is not None:
        key, revision = version.origin
        entry["brought_from"] = {"frame": key.frame, "track": key.name, "revision": revision}
    if version.reviews:
        entry["reviews"] = [
            {"action": event.action.value, "author": event.author, "time": _time(event.written_at)}
            for event in version.reviews
        ]
    return entry


def _model(store: Store, project_id: str, name: str) -> dict[str, Any]:
    model_id, _, number = name.partition("@")
    if not number.isdecimal():
        return {"name": name, "known": False}
    try:
        model = store.models.get(project_id, model_id, int(number))
    except NotFound:  # deleted, or from another tool
        return {"name": name, "known": False}
    return {
        "name": name,
        "known": True,
        "recipe": model.recipe,
        "trained": _time(model.created_at),
        "saw_labels_until_revision": dict(model.label_revisions),
        "files": {file.name: file.sha256 for file in model.files},
    }


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
