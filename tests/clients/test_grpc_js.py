"""A second client, `@grpc/grpc-js`, does the whole job against a real server with protos from a descriptor set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.api.harness import Running

HERE = Path(__file__).parent
OUT_OF_RANGE = 11


@pytest.fixture(scope="session")
def node_client() -> Path:
    """The folder of the client with its packages installed; kept between runs while the lock stays the same."""
    if not shutil.which("npm") or not shutil.which("node"):
        if os.environ.get("CI"):
            pytest.fail("npm and node are needed in CI")
        pytest.skip("npm and node are not installed")
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "micromodels-tests" / f"grpc-js-{lock}"
    if not (cache / "complete").exists():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, cache)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=cache, check=True, capture_output=True, timeout=300)
        (cache / "complete").touch()
    shutil.copy(HERE / "client.mjs", cache)
    return cache


def test_the_independent_client_gets_a_labeled_video(
    running: Running, node_client: Path, tmp_path: Path, repository: Path
) -> None:
    """Upload in chunks, AutoLabel, StreamLabels, and an error with details."""
    image = tmp_path / "image.binpb"
    subprocess.run([sys.executable, str(repository / "scripts/generate"), "--image", str(image)], check=True)
    done = subprocess.run(
        ["node", "client.mjs", str(image), running.address, str(running.clip)],
        cwd=node_client,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert set(seen.pop("progress")) == {
        *("state", "warning", "picture", "training", "stage", "experiment", "propagation"),
    }
    assert seen == {
        "ready": True,
        "frames": 24,
        "events": ["operation", "progress", "labels", "result"],
        "label_frames": list(range(24)),
        "same_labels": True,
        "anchors": [0, 12, 23],
        "refusal": OUT_OF_RANGE,
        "refusal_details": 1,
    }


def test_the_lock_names_no_host() -> None:
    """The packages come from whatever registry npm is set to."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
