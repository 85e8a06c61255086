"""Specs are checked when they are made, and survive the ledger."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micromodels.errors import InvalidInput
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
        TrainSpec("v", "head", 3, 7, 0.5, "cpu", "m", "name"),
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
        (lambda: TrainSpec("v", recipe="yolo", experiments=2), "experiments"),
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
