"""The whole line over gRPC with nothing replaced: a real training in a job child while the server answers others."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from micromodels.types import Box, Label, ProvenanceKind
from tests.service.api.harness import Running, box


@pytest.mark.slow
def test_a_real_training_labels_the_clip(tmp_path: Path, tiny_clip: Path) -> None:
    """One seed in, every frame out; stopped early; Health answers all the while."""
    running = Running(tmp_path, tiny_clip / "video.mp4", preload="")
    over = threading.Event()
    answered: list[int] = []

    def probe() -> None:
        stub = health_pb2_grpc.HealthStub(running.channel)
        while not over.wait(0.05):
            stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
            answered.append(1)

    prober = threading.Thread(target=probe)
    try:
        video = running.video()
        prober.start()
        run = running.client.auto_label(video.name, [box(0)], effort=0.1)
        trained = False
        told: Counter[str] = Counter()
        for progress in run:
            if progress.HasField("stage"):
                told[progress.stage.stage] += progress.stage.duration_seconds
            if progress.HasField("training") and not trained:
                run.stop_early()
                trained = True
        labels = [label for label in run.labels() if isinstance(label, Label)]
        assert trained
        assert [label.frame for label in labels] == list(range(24))
        assert labels[0] == box(0)
        assert run.result is not None
        assert run.operation is not None
        sums = {stage.stage: stage.duration_seconds for stage in run.operation.metadata().stages}
        assert {"decode", "encode", "train", "predict"} <= set(sums)
        assert told == pytest.approx(sums)
        made = {label.provenance.version for label in labels if label.provenance.kind is not ProvenanceKind.HUMAN}
        assert made == {run.result.micro_model_version}
        assert all(label.confidence is not None for label in labels[1:])
        assert any(isinstance(label.shape, Box) for label in labels[1:])
        version = running.client.get_micro_model_version(run.result.micro_model_version)
        assert {Path(file.file_name).suffix for file in version.files} == {".safetensors", ".onnx", ".json"}
        assert version.manifest["encoder"]
    finally:
        over.set()
        prober.join()
        running.stop()
    assert len(answered) > 10, "Health answered while it trained; scripts/soak says how soon"
