"""docs/explanation/reliability.md tells the truth about which tests there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

FAULTS = range(1, 68)
"""Later ones are listed as they are dealt with."""
UNSHOWN = {64}
"""Faults that no test provokes; the page says why."""


@pytest.fixture(scope="module")
def rows(repository: Path) -> dict[int, str]:
    """Lines of the table of faults by number."""
    text = (repository / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    return {int(number): line for number, line in re.findall(r"^\| (\d+) \|(.*)$", text, re.M)}


def test_every_fault_is_listed(rows: dict[int, str]) -> None:
    """Each once, with the tests that provoke it."""
    assert set(FAULTS) <= set(rows)
    without = {number for number, line in rows.items() if "::test_" not in line}
    assert without == UNSHOWN


def test_every_test_that_is_named_exists(repository: Path, rows: dict[int, str]) -> None:
    """By file and function."""
    for number, line in rows.items():
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line):
            tree = ast.parse((repository / path).read_text(encoding="utf-8"))
            functions = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"fault {number}: {path} has no {name}"


def test_tests_with_a_number_are_listed(repository: Path, rows: dict[int, str]) -> None:
    """A test whose name has a fault's number stands in that fault's row."""
    for path in (repository / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_f\d+_\w+)", path.read_text(encoding="utf-8"), re.M):
            for number in re.findall(r"f(\d+)_", name.removeprefix("test_")):
                assert name in rows[int(number)], f"{path}: {name}"


def test_files_that_are_named_exist(repository: Path) -> None:
    """Scripts, folders and files of tests."""
    text = (repository / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:scripts|tests)/[\w/.]+)`", text):
        assert (repository / name).exists(), name
