"""Every setting is documented, and nothing else is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from service.settings import Settings


def test_every_setting_is_documented(repository: Path) -> None:
    """docs/reference/settings.md has a row for each field of `Settings`, with its default where that is one word."""
    text = (repository / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = {row[1]: row[0] for row in re.finditer(r"^\| `MICROMODELS_([A-Z0-9_]+)` \|.*$", text, re.MULTILINE)}
    fields = {field.name.upper(): field for field in dataclasses.fields(Settings)}
    assert list(rows) == list(fields)
    for name, field in fields.items():
        if isinstance(field.default, (int, float)):
            assert f"`{field.default}" in rows[name], name
        elif isinstance(field.default, str):
            assert not field.default or f"`{field.default}`" in rows[name], name


def test_variables_that_documents_name_are_settings(repository: Path) -> None:
    """A variable in README or docs that the server does not read would be a promise without anything behind it."""
    others = {"REAL_DATA", "SCREENSHOTS", "WITHOUT"}  # of the tests and of the set-up
    known = {field.name.upper() for field in dataclasses.fields(Settings)} | others
    for path in (repository / "README.md", *(repository / "docs").rglob("*.md")):
        named = set(re.findall(r"MICROMODELS_([A-Z0-9_]*[A-Z0-9])", path.read_text(encoding="utf-8")))
        assert named <= known, path.name
