"""Fixtures that every test may use."""

from __future__ import annotations

import os

# Before torch is imported: spinning OpenMP threads make steps ten times slower when another process uses the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from tests.databases import Postgres, running_postgres, running_s3

# A busy machine may take long over one input, or over making inputs: that is no finding.
hypothesis.settings.register_profile(
    "tests", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips; skips where MICROMODELS_REAL_DATA is unset, fails where it names nothing."""
    named = os.environ.get("MICROMODELS_REAL_DATA")
    if not named:
        pytest.skip("MICROMODELS_REAL_DATA is not set")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"MICROMODELS_REAL_DATA={named} is not a folder")
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy, with the web page as it is built here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("micromodels", "service"):
        left_out = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(REPOSITORY / name, source / name)
    build = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster of this session."""
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 API of this session."""
    with running_s3() as address:
        yield address


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for real data carries the marker, so that `-m "not real_data"` is complete."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Every test starts from the same seed and leaves the generators as they were."""
    torch = sys.modules.get("torch")  # a test that needs none should not wait for its import
    states = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    random.seed(0)
    np.random.seed(0)
    if torch:
        torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    if torch:
        torch.set_rng_state(states[2])


def tiny_frames(count: int = 24, height_px: int = 96, width_px: int = 128) -> Iterator[np.ndarray]:
    """A red 32x32 square that moves right by 2 px a frame over fixed noise; RGB uint8 (height, width, 3)."""
    background = np.random.default_rng(0).integers(60, 120, (height_px // 8, width_px // 8, 3), dtype=np.uint8)
    background = background.repeat(8, axis=0).repeat(8, axis=1)
    for index in range(count):
        image = background.copy()
        image[32:64, 16 + 2 * index : 48 + 2 * index] = (220, 40, 40)
        yield image


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``video.mp4`` (24 `tiny_frames`, 128x96) and ``seeds.jsonl`` (boxes on frames 0, 12, 23)."""
    from micromodels.video import write_video

    folder = tmp_path_factory.mktemp("tiny_clip")
    write_video(folder / "video.mp4", tiny_frames(), Fraction(12))
    lines = [
        {"frame": i, "track": "1", "class": "square", "state": "visible", "box": [16 + 2 * i, 32, 48 + 2 * i, 64]}
        for i in (0, 12, 23)
    ]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
