"""Protocol F on a server: everything that the simulated reviewer does goes over gRPC."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from micromodels.types import Box
from micromodels.video import open_video
from scripts.benchmark.annotation_cost import Strategy, run_annotation_cost
from scripts.benchmark.baselines import BASELINES
from scripts.benchmark.datasets import Clip, ClipKind, FrameTruth
from scripts.benchmark.grpc_reviewer import GrpcReviewer
from scripts.benchmark.simulated_reviewers import FirstLabels
from tests.service.api.harness import Running

COUNT = 24


class Moving:
    """A square that moves two pixels a frame."""

    def tracks(self) -> Mapping[str, str]:
        """One track."""
        return {"1": "square"}

    def frame(self, index: int) -> FrameTruth | None:
        """Where it is."""
        return {"1": Box(16 + 2 * index, 32, 48 + 2 * index, 64)}


@pytest.mark.parametrize("strategy", [Strategy.SUGGESTED, Strategy.EVEN])
def test_a_server_is_corrected_as_a_tool_would(running: Running, strategy: Strategy) -> None:
    """Frames between two anchors look like the nearer one: some are drawn, the rest is right; nothing stays behind."""
    clip = Clip("tiny", "moving", ClipKind.BOX, running.clip, Moving(), 0.7, {})
    before = {project.name for project in running.client.list_projects()}
    with open_video(clip.source) as video, FirstLabels() as first:
        system = BASELINES["default"]
        row = run_annotation_cost(
            clip, video, system, strategy, first, lambda clip, often: GrpcReviewer(clip, running.address, often, 0.1)
        ).row
    assert row.seed_frames[0] == 0
    assert 1 < len(row.seed_frames) <= COUNT / 2
    assert len(set(row.seed_frames)) == len(row.seed_frames)
    assert row.curve[-1][1] > row.curve[0][1]
    assert row.scores["correction_seconds"] > 0
    assert row.scores["first_change_seconds"] <= row.scores["slowest_correction_seconds"]
    assert {project.name for project in running.client.list_projects()} == before
