"""Help, and the documentation of the command line and of label files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from service.cli import app
from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import micromodels

TOP: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMANDS: dict[str, Any] = {
    f"{group} {name}".strip(): command
    for top, outer in TOP.items()
    for group, inner in [(top, outer.commands) if hasattr(outer, "commands") else ("", {top: outer})]
    for name, command in inner.items()
}
"""Those of a group by the names of both."""


def options(command: Any) -> list[str]:
    """Long names of a command's options."""
    return [name for p in command.params for name in p.opts if name.startswith("--") and name != "--help"]


def test_the_commands_are_those_that_users_were_promised() -> None:
    """And the application itself explains how to stop and what exit codes mean."""
    promised = "audit backup batch certificate doctor export inspect label report restore role serve token train"
    assert sorted(TOP) == promised.split()
    shown = " ".join(micromodels("--help").output.split())
    for words in ("Ctrl-C", "Ctrl-\\", "130 stopped", "5 some files or checks failed", *TOP):
        assert words in shown
    assert micromodels("--version").output.startswith("micromodels ")
    assert micromodels().output.split() == micromodels("--help").output.split()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_documents_every_command(name: str) -> None:
    """What it does, each option with words of its own, and the exit codes."""
    command = COMMANDS[name]
    result = micromodels(*name.split(), "--help")
    assert result.exit_code == ExitCode.OK
    assert "Exit codes" in micromodels(name.split()[0], "--help").output
    assert len(command.help.split()) > 8
    for parameter in command.params:
        if "--help" not in parameter.opts:
            assert len(parameter.help.split()) > 3, f"{parameter.name} has no help"
    for option in options(command):
        assert option in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_documentation_has_every_command_and_option(name: str, repository: Path) -> None:
    """docs/reference/command-line.md has a section a command that names its options; nothing there is made up."""
    text = (repository / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## micromodels ")[1:]}
    assert sorted(sections) == sorted(COMMANDS)
    assert set(re.findall(r"--[a-z][a-z-]+", sections[name])) >= set(options(COMMANDS[name]))
    known = {o for command in COMMANDS.values() for o in options(command)}
    assert set(re.findall(r"--[a-z][a-z-]+", sections[name])) <= known
    for code in ExitCode:
        assert f"| {code.value} |" in text


def test_the_documentation_of_labels_is_right(repository: Path) -> None:
    """Every example line in docs/reference/label-format.md is read, and fits the schema."""
    from jsonschema import Draft202012Validator

    from micromodels.labels.label_json import SCHEMA_PATH, label_from_dict

    text = (repository / "docs" / "reference" / "label-format.md").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in re.findall(r'^\{"frame".*\}$', text, re.MULTILINE)]
    schema = Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
    assert len(lines) == 6
    for line in lines:
        schema.validate(line)
        label_from_dict(line)
    properties = json.loads(SCHEMA_PATH.read_text())["$defs"]["objectLabel"]["properties"]
    for key in properties:
        assert f"| `{key}` |" in text


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    """Neither torch nor numpy; and OpenMP is told to wait politely before torch can be imported."""
    code = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None); import service.cli;"
        "heavy = {'torch', 'numpy', 'cv2', 'av', 'onnxruntime', 'grpc', 'sqlalchemy'} & set(sys.modules);"
        "print(os.environ['OMP_WAIT_POLICY'], heavy or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PASSIVE light"
