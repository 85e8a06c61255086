"""The light touch over gRPC with nothing replaced: seeds, training, suggestion, correction, acceptance, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from micromodels.client import Client
from micromodels.types import Label, ObjectClass, Ontology
from micromodels.v1 import correction_pb2 as pb
from scripts.benchmark.datasets import load_clips
from tests.service.api.harness import Running


@pytest.mark.slow
def test_a_real_clip_is_corrected(tmp_path: Path, real_data: Path) -> None:
    """Libby from DAVIS: one seed, little training, then the suggested frame as its truth has it mends its span."""
    (clip,) = load_clips(real_data, ["davis2016"], ["libby"])
    running = Running(tmp_path, clip.source, preload="")
    client = Client(running.address, timeout_seconds=300)
    try:
        (seed,) = clip.seeds([0])
        assert isinstance(seed, Label)
        project = client.create_project("Dogs", Ontology((ObjectClass(seed.object_class),)))
        video = client.register_video(project.name, str(clip.source), timeout_seconds=300).name
        labels = list(client.auto_label(video, [seed], effort=0.05).labels())
        found = client.review.suggest_frames(video, 3)
        assert found.suggestions
        assert found.suggestions[0].explanation
        frame = found.suggestions[0].frame_index
        (drawn,) = clip.seeds([frame])
        before = {x.frame: x for x in labels}
        messages = list(client.review.correct_labels(video, [drawn], base_revision=found.label_revision))
        differences = [d for m in messages for d in m.differences.differences]
        summary = messages[-1].summary
        assert messages[0].acknowledged.written_count == 1
        assert differences
        assert summary.changed_count == len({d.key.frame_index for d in differences})
        after = {x.frame: x for x in client.read_labels(video)}
        assert after[0] == seed
        assert after[frame] == drawn
        touched = {d.key.frame_index for d in differences} | {frame}
        assert {f: x for f, x in after.items() if f not in touched} == {
            f: x for f, x in before.items() if f not in touched
        }
        print(f"correction of frame {frame}: {summary.duration_seconds:.1f} s, {summary.changed_count} labels")
        again = list(client.review.correct_labels(video, list(clip.seeds([min(frame + 5, len(labels) - 1)]))))
        print(
            f"second correction: {again[-1].summary.duration_seconds:.1f} s, {again[-1].summary.changed_count} labels"
        )
        would = client.review.accept_labels(video, 0.5, validate_only=True)
        done = client.review.accept_labels(video, 0.5)
        assert would.accepted_count == done.accepted_count
        assert not list(client.review.list_scene_cuts(video))
        assert list(client.review.list_suspected_swaps(video)) == []
        (path,) = client.export(video, tmp_path / "out")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == len(labels)
        assert sum(line.get("provenance", {}).get("kind", "human") == "human" for line in lines) == 3
        assert isinstance(messages[-1], pb.CorrectLabelsResponse)
    finally:
        client.close()
        running.stop()
