"""A package as a stranger would write it: what docs/how-to/extending.md shows, with its entry points."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from micromodels.encoding.encoders import ENCODERS
from micromodels.labels.formats import FORMATS
from micromodels.recipes.base import RECIPES

REPOSITORY = Path(__file__).resolve().parents[1]


def write_added_package(folder: Path) -> list[Path]:
    """Write the package into ``folder`` as an installer would; returns its files of code."""
    text = (REPOSITORY / "docs" / "how-to" / "extending.md").read_text(encoding="utf-8")
    files = []
    for name, code in re.findall(r"^```python\n# (my_package/\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
        files.append(path)
    ((entry_points),) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    described = folder / "my_package-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    in_file = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", entry_points).replace('"', "")
    (described / "entry_points.txt").write_text(in_file)
    return files


@contextmanager
def added_package(folder: Path) -> Iterator[None]:
    """Within, the package is installed in this process."""
    write_added_package(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for registry in (RECIPES, ENCODERS, FORMATS):
            patch.setattr(registry, "_sources", None)
            patch.setattr(registry, "_loaded", {})
        yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]
