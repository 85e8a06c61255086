"""The worker process on its own: what it loads, and how it reports errors."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import InvalidInput, OutOfMemory, OutOfRange, TrainingError, VideoError
from service.worker.protocol import error_fields


def test_a_worker_starts_light(repository: Path) -> None:
    """It loads neither database nor gRPC, and for a probe no network either: hundreds of them may start in an hour."""
    code = "import sys, service.worker.main, service.worker.jobs, service.worker.session; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert {"sqlalchemy", "grpc", "google.protobuf", "torch", "cv2", "service.store"} & set(
        done.stdout.split()
    ) == set()


def no_memory() -> Exception:
    try:
        np.empty(1 << 62, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError("so much memory is there")


@pytest.mark.parametrize(
    ("error", "reason", "error_class"),
    [
        (OutOfMemory("full"), "OOM", "OutOfMemory"),
        (MemoryError(), "OOM", "OutOfMemory"),
        (no_memory(), "OOM", "OutOfMemory"),
        (TrainingError("no"), "TRAINING_FAILED", "TrainingError"),
        (VideoError("broken"), "VIDEO_REFUSED", "VideoError"),
        (VideoError("the decoding process died"), "DECODE_CRASH", "VideoError"),
        (InvalidInput("seed", -1, "0 or more"), "INVALID_INPUT", "InvalidInput"),
        (OutOfRange("frame", 9, "0 to 8"), "INVALID_INPUT", "OutOfRange"),
        (OSError(errno.ENOSPC, "full"), "RESOURCE_EXHAUSTED", "ResourceExhausted"),
        (OSError(errno.EDQUOT, "full"), "RESOURCE_EXHAUSTED", "ResourceExhausted"),
        (OSError(errno.EIO, "broken"), "INTERNAL", ""),
        (RuntimeError("CUDA error: unspecified launch failure"), "DEVICE_LOST", ""),
        (ValueError("nonsense"), "INTERNAL", ""),
    ],
)
def test_errors_have_reasons(error: Exception, reason: str, error_class: str) -> None:
    """A retry, and the words that a person reads, follow from the reason."""
    fields = error_fields(error)
    assert (fields["reason"], fields["error_class"]) == (reason, error_class)
    assert fields["message"]
