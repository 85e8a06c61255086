"""`scripts/check_imports` sees what it is there to see, and finds nothing in this tree."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def check(repository: Path) -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("check_imports", str(repository / "scripts" / "check_imports"))
    spec = importlib.util.spec_from_loader("check_imports", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_this_tree_keeps_the_map(check: ModuleType) -> None:
    """No breach, no circle in Python or TypeScript, and at most eight levels of folders in the library."""
    complaints, depths = check.check_python()
    assert complaints == []
    assert check.check_typescript() == []
    assert depths["micromodels"] <= 8


def test_few_files_are_at_the_root_of_the_library(repository: Path) -> None:
    """Everything but the front door, types and errors has a folder."""
    assert len(list((repository / "micromodels").glob("*.py"))) <= 4


def test_every_folder_has_its_place_in_the_order(check: ModuleType, repository: Path) -> None:
    """A new folder must be put into the order; a folder that is gone must leave it."""
    for package, order, apart in (
        ("micromodels", check.LIBRARY, {*check.LIGHT, "schemas"}),
        ("service", check.SERVICE, {"page"}),
    ):
        folders = {p.name for p in (repository / package).iterdir() if p.is_dir() and p.name != "__pycache__"}
        assert folders - apart == set(order) - {"server"}, package


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"micromodels/video/a.py": "from micromodels.labels import b\n", "micromodels/labels/b.py": "x = 1\n"},
            "before",
        ),
        (
            {
                "micromodels/output/a.py": "from micromodels import front_door\n",
                "micromodels/front_door.py": "x = 1\n",
            },
            "front_door is not in the order of folders",
        ),
        (
            {"micromodels/video/a.py": "def f():\n    import service.api\n", "service/api/__init__.py": ""},
            "the service",
        ),
        (
            {"micromodels/video/a.py": "import micromodels.client\n", "micromodels/client/__init__.py": ""},
            "light client",
        ),
        (
            {
                "service/store/a.py": "if TYPE_CHECKING:\n    from service.store.b import x\n",
                "service/store/b.py": "import service.store.a\nx = 1\n",
            },
            "circle: service.store.a <-> service.store.b",
        ),
        (
            {"micromodels/labels/a.py": '"""D."""\nfrom micromodels.types import Box\n__all__ = ["Box"]\n'},
            "only hands on",
        ),
        (
            {"micromodels/attic/a.py": "x = 1\n", "micromodels/video/b.py": "import micromodels.attic.a\n"},
            "attic is not",
        ),
    ],
)
def test_a_breach_is_found(check: ModuleType, tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    """Each kind of breach is named with its file."""
    write(tmp_path, files)
    complaints, _ = check.check_python(tmp_path)
    assert any(complaint in found for found in complaints), complaints


def test_a_circle_of_typescript_is_found(check: ModuleType, tmp_path: Path) -> None:
    """Imports of types count: they too make two files impossible to read one after the other."""
    write(
        tmp_path,
        {
            "service/page/src/a.ts": 'import type { B } from "./ui/b";\n',
            "service/page/src/ui/b.tsx": 'import { a } from "../a";\nimport "preact";\n',
        },
    )
    assert check.check_typescript(tmp_path) == ["circle: service/page/src/a.ts <-> service/page/src/ui/b.tsx"]


def test_imports_to_the_left_are_fine(check: ModuleType, tmp_path: Path) -> None:
    """Folders later in the order import earlier ones, types and errors; levels count folders."""
    write(
        tmp_path,
        {
            "micromodels/errors.py": "x = 1\n",
            "micromodels/types.py": "from micromodels.errors import x\n\ny = x\n",
            "micromodels/video/a.py": "from micromodels.types import y\n\nz = y\n",
            "micromodels/labels/b.py": "from micromodels.video.a import z\n\nw = z\n",
        },
    )
    complaints, depths = check.check_python(tmp_path)
    assert complaints == []
    assert depths["micromodels"] == 4
