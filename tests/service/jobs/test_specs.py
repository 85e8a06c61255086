"""Specs are checked when they are made, and survive the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from micromodels.errors import InvalidInput
from micromodels.recipes.base import MAX_EFFORT, MAX_EXPERIMENTS, MAX_SEED, MIN_EFFORT, TrainSettings
from service.domain.job_specs import (
    AutoLabelSpec,
    ExportSpec,
    JobSpec,
    ProbeSpec,
    PropagateSpec,
    TrainSpec,
    spec_from_dict,
    spec_to_dict,
)
from service.domain.jobs import JobKind


@pytest.mark.parametrize(
    "spec",
    [
        ProbeSpec("v"),
        TrainSpec("v", "head", 3, 7, 0.5, "cpu", "m", "name", "pixels+lite0"),
        AutoLabelSpec("v"),
        PropagateSpec("v", "m", 2, 5, 9, "cuda"),
        ExportSpec("v", "coco"),
    ],
)
def test_specs_survive_the_ledger(spec: JobSpec) -> None:
    """To JSON and back gives the same spec of the same kind."""
    assert spec_from_dict(spec.kind, spec_to_dict(spec)) == spec


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TrainSpec("v", recipe="magic"), "recipe"),
        (lambda: TrainSpec("v", experiments=0), "experiments"),
        (lambda: TrainSpec("v", experiments=MAX_EXPERIMENTS + 1), "experiments"),
        (lambda: TrainSpec("v", recipe="finetune", experiments=2), "experiments"),
        (lambda: TrainSpec("v", encoder="lite1"), "encoder"),
        (lambda: TrainSpec("v", encoder="pixels+dinov2s@/etc/passwd"), "encoder"),
        (lambda: TrainSpec("v", recipe="yolo", encoder="lite0"), "encoder"),
        (lambda: TrainSpec("v", seed=-1), "seed"),
        (lambda: TrainSpec("v", effort=float("nan")), "effort"),
        (lambda: TrainSpec("v", device="tpu"), "device"),
        (lambda: PropagateSpec("v", "m", start_frame=5, stop_frame=5), "stop_frame"),
        (lambda: PropagateSpec("v", "m", version=True), "version"),
        (lambda: ExportSpec("v", "pickle"), "format"),
        (lambda: spec_from_dict(JobKind.EXPORT, {"video_id": "v", "more": 1}), "spec"),
        (lambda: spec_from_dict(JobKind.TRAIN, {}), "spec"),
    ],
)
def test_bad_specs_name_the_field(make: Callable[[], object], field: str) -> None:
    """What cannot be is refused at once."""
    with pytest.raises(InvalidInput, match=field):
        make()


def test_the_library_gets_the_settings_of_the_spec() -> None:
    """Each by its name."""
    spec = TrainSpec("v", "head", 3, 7, 0.5, "cpu", encoder="lite0")
    assert spec.settings == TrainSettings(recipe="head", experiments=3, seed=7, encoder="lite0", effort=0.5)


def test_the_api_and_the_documents_say_the_limits_of_the_library(repository: Path) -> None:
    """Comments of the proto and the command's documentation name the numbers that are checked."""
    proto = (repository / "protos/micromodels/v1/micro_model.proto").read_text(encoding="utf-8")
    settings = proto[proto.index("message TrainSettings") : proto.index("message GetMicroModelVersionRequest")]
    for words in (f"at most {MAX_EXPERIMENTS},", f"0 to {MAX_SEED}.", f"{MIN_EFFORT} to {MAX_EFFORT:g}:"):
        assert words in settings
    commands = (repository / "docs/reference/command-line.md").read_text(encoding="utf-8")
    assert f"1 (default) to {MAX_EXPERIMENTS};" in commands
