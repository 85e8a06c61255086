"""Corrections, a restart and retraining over gRPC with nothing replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from micromodels.types import AnyLabel, Box, Label
from tests.service.api.harness import Running, box


def truth(frame: int) -> Label:
    """Where the square of the tiny clip is."""
    return box(frame, x1=16 + 2 * frame)


@pytest.mark.slow
def test_a_real_head_goes_on_learning_and_is_trained_again(tmp_path: Path, tiny_clip: Path) -> None:
    """What the second correction starts from is the stored head; a retrained one keeps what people drew."""
    running = Running(tmp_path, tiny_clip / "video.mp4", preload="")
    try:
        video = running.video().name
        assert list(running.client.auto_label(video, [truth(0)], effort=0.05).labels())
        first = list(running.client.review.correct_labels(video, [truth(8)]))[-1].summary
        learned = [first.learned_count]
        running.stop()
        running.start()
        client = running.connect()
        second = list(client.review.correct_labels(video, [truth(16)]))[-1].summary
        assert second.micro_model_version == first.micro_model_version
        third = list(client.review.correct_labels(video, [truth(23)]))[-1].summary
        learned += [second.learned_count, third.learned_count]
        # Where learning would have made it forget, nothing is learned: what is counted goes on all the same.
        assert [count for count in learned if count] == list(range(1, sum(map(bool, learned)) + 1))
        _, project_id, _, video_id = video.split("/")
        model = running.store.models.of_video(project_id, video_id)
        assert model is not None
        states = running.store.adapted_models.of(project_id, video_id, model.provenance_version)
        assert len({file.sha256 for state in states for file in state.files if file.name == "head.safetensors"}) == sum(
            map(bool, learned)
        )
        before: dict[int, AnyLabel] = {label.frame: label for label in client.read_labels(video)}
        result = client.retrain(video, effort=0.05).result(600)
        print(f"unseen {list(result.unseen_frames)}: {result.score_before:.3f} before, {result.score_after:.3f} after")
        assert set(result.unseen_frames) <= {8, 16, 23}
        assert result.unseen_frames
        assert 0 <= min(result.score_before, result.score_after) <= max(result.score_before, result.score_after) <= 1
        after = {label.frame: label for label in client.read_labels(video)}
        assert {frame: after[frame] for frame in (0, 8, 16, 23)} == {frame: truth(frame) for frame in (0, 8, 16, 23)}
        if result.replaced:
            version = client.get_micro_model_version(result.micro_model_version)
            assert version.parent_version == result.compared_version == first.micro_model_version
            assert version.metrics["unseen_score"] == pytest.approx(result.score_after)
        else:
            assert after == before
        assert all(isinstance(label, Label) and isinstance(label.shape, Box | None) for label in after.values())
        client.close()
    finally:
        running.stop()
