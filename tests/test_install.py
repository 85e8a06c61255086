"""What an install without extras is: the light client, in an environment where nothing else is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import micromodels

pytestmark = pytest.mark.slow

BASE = {
    "googleapis-common-protos",
    "grpcio",
    "grpcio-status",
    "micromodels-video",
    "protobuf",
    "typing-extensions",
}
"""All that the base install may bring: gRPC, protobuf, and what these need themselves."""

CLIENT = """
import sys

import micromodels
from micromodels.client import Client
from micromodels.client.messages import label_from_message, label_to_message
from micromodels.types import Box, Label, Mask, Polygon, State

shapes = (
    Mask(3, 4, "42102"),
    Box(1, 2, 3, 4),
    Polygon(((0.0, 0.0), (4.0, 0.0), (0.0, 3.0))),
)
for shape in shapes:
    label = Label(12, "1", "polyp", State.VISIBLE, shape)
    assert label_from_message(label_to_message(label)) == label, label
with Client("127.0.0.1:1"):
    pass
assert "numpy" not in sys.modules
print(micromodels.__version__)
"""


@pytest.fixture(scope="module")
def programs(repository: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh virtual environment with the wheel and what it depends on, at the locked versions."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    constraint = ["--constraint", str(repository / "requirements.lock")]
    done = subprocess.run(
        [*pip, *constraint, str(wheel)], capture_output=True, text=True, timeout=300, check=False, env=clean()
    )
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"pip could not install the base packages: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def clean() -> dict[str, str]:
    """The environment of this process, without what would let the checkout be imported."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(programs: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment where the checkout is out of sight."""
    return subprocess.run(
        [str(programs / program), *arguments],
        cwd=programs,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_is_grpc_and_protobuf_and_nothing_else(programs: Path) -> None:
    """No numpy above all."""
    listed = json.loads(run(programs, "python", "-m", "pip", "list", "--format", "json").stdout)
    found = {re.sub(r"[-_.]+", "-", package["name"]).lower() for package in listed}
    assert found - {"pip", "setuptools"} == BASE


def test_the_client_works_with_every_shape(programs: Path) -> None:
    """Masks, boxes and polygons become messages and come back equal."""
    done = run(programs, "python", "-c", CLIENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == micromodels.__version__


def test_the_command_says_what_to_install(programs: Path) -> None:
    """One line that can be copied, and exit code 2."""
    done = run(programs, "micromodels", "label", "video.mp4")
    assert done.returncode == 2
    assert "pip install 'micromodels-video[server]'" in done.stderr
    assert "Traceback" not in done.stderr
