"""Dockerfile and compose.yaml say the same as the set-up script, the command line and the settings."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

SETTINGS = {f"MICROMODELS_{field.name.upper()}" for field in dataclasses.fields(Settings)}


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> str:
    """The Dockerfile without comments, continued lines joined."""
    text = (repository / "Dockerfile").read_text(encoding="utf-8")
    return re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def services(repository: Path) -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = yaml.safe_load((repository / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return found


def copied(dockerfile: str) -> list[str]:
    """What the Dockerfile takes out of the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
    return [name for line in lines for name in line.split()[:-1]]


def test_what_is_copied_is_there_and_not_ignored(repository: Path, dockerfile: str) -> None:
    """.dockerignore leaves out everything but that."""
    names = copied(dockerfile)
    assert "micromodels" in names
    ignore = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    kept = {line[1:] for line in ignore if line.startswith("!")}
    for name in names:
        assert (repository / name).exists(), name
        assert any(name == one or name.startswith(f"{one}/") for one in kept), f"{name} is ignored"
    assert all(any(fnmatch.fnmatch(name, f"{one}*") for name in names) for one in kept), "more is kept than copied"


def test_system_packages_are_those_of_the_set_up(repository: Path, dockerfile: str) -> None:
    """What OpenCV needs, as scripts/setup says it, and the decoder's sandbox."""
    setup = (repository / "scripts" / "setup").read_text(encoding="utf-8")
    (wanted,) = re.findall(r'system_packages="([^"]+)"', setup)
    (installed,) = re.findall(r"--no-install-recommends ([\w .-]+?)\s*&&", dockerfile)
    assert installed.split() == [*wanted.split(), "bubblewrap"]


def test_python_packages_are_the_locked_ones_without_agpl(repository: Path, dockerfile: str) -> None:
    """Both calls of pip take the versions of the lock; the extras exist, and yolo is not one of them."""
    import tomllib

    calls = re.findall(r"pip install ([^&;]+)", dockerfile)
    assert len(calls) == 2
    assert all("--constraint requirements.lock" in call for call in calls)
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'ARG EXTRAS="([^"]+)"', dockerfile)
    assert set(extras.split(",")) <= set(project["optional-dependencies"]) - {"yolo"}


def test_the_health_check_is_python(dockerfile: str) -> None:
    """It is a program that parses, and asks the port that the page has by default."""
    (command,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", dockerfile, re.MULTILINE)
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c")
    assert "https://localhost:8080/" in ast.unparse(ast.parse(code))


def test_variables_are_settings(dockerfile: str, services: dict[str, Any]) -> None:
    """Those of the image and of the server in compose."""
    of_image = set(re.findall(r"\b(MICROMODELS_\w+)=", dockerfile)) - {"MICROMODELS_WITHOUT"}
    assert of_image == {"MICROMODELS_DATA_DIR"}
    assert of_image | set(services["server"]["environment"]) <= SETTINGS


def test_the_server_is_where_the_database_is(dockerfile: str, services: dict[str, Any]) -> None:
    """Names of user, database and host agree; ports are those that the image exposes, on loopback only."""
    database = services["database"]["environment"]
    url = services["server"]["environment"]["MICROMODELS_DATABASE_URL"]
    assert url.startswith(f"postgresql://{database['POSTGRES_USER']}:")
    assert url.endswith(f"@database:5432/{database['POSTGRES_DB']}")
    (exposed,) = re.findall(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    assert services["server"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in exposed.split()]
