"""The repository keeps its own rules: who may import whom, what README promises, which names are public."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(p for p in (REPOSITORY / "scripts").iterdir() if p.is_file() and not p.suffix)
LIGHT = ("micromodels/v1/", "micromodels/client/")
"""The light client: the only part of the library folder that may know gRPC."""
OVER_GRPC = "scripts/benchmark/grpc_reviewer.py"
"""Measures a server from outside, through the light client."""

SERVER_ONLY = {
    "alembic",
    "fastapi",
    "google",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "ray",
    "service",
    "sqlalchemy",
}
HEAVY = {"av", "cv2", "numpy", "onnxruntime", "PIL", "pycocotools", "scipy", "torch", "torchvision", "ultralytics"}


def python_files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (REPOSITORY / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; the rules below read absolute names"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def breaches(files: list[Path], forbidden: set[str]) -> list[str]:
    """``file:line imports name`` for every import of a forbidden module or of something in it."""
    return [
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    ]


def is_light(path: Path) -> bool:
    return path.relative_to(REPOSITORY).as_posix().startswith(LIGHT)


def test_the_library_knows_no_server_storage_or_transport() -> None:
    """`micromodels/` imports no gRPC, protobuf, SQL, Ray or `service`; the light client may know gRPC alone."""
    library = [p for p in python_files("micromodels") if not is_light(p)]
    found = breaches(library, SERVER_ONLY | {"micromodels.v1", "micromodels.client"})
    assert [breach for breach in found if not (breach.startswith(OVER_GRPC) and "micromodels.client" in breach)] == []
    light = [p for p in python_files("micromodels") if is_light(p)]
    assert breaches(light, SERVER_ONLY - {"google", "grpc", "grpc_status"} | HEAVY) == []


def test_a_breach_of_the_import_rules_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader sees imports inside functions and `from a import b` of a forbidden submodule."""
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from micromodels import v1\n    import grpc.aio\n", encoding="utf-8")
    assert breaches([path], {"grpc", "micromodels.v1"}) == [
        "bad.py:2 imports micromodels.v1",
        "bad.py:3 imports grpc.aio",
    ]


def test_only_its_own_recipe_imports_ultralytics() -> None:
    """The AGPL package is known to at most one module, so that leaving it out takes nothing else away."""
    files = {
        breach.split(":")[0] for breach in breaches(python_files("micromodels", "service", "scripts"), {"ultralytics"})
    }
    assert len(files) <= 1


def test_the_store_and_the_jobs_know_no_protobuf() -> None:
    """Domain dataclasses go in and out of the store; conversion from protos lives in `service/api`."""
    assert breaches(python_files("service/store", "service/jobs"), {"google", "grpc", "micromodels.v1"}) == []


def test_only_the_store_knows_sql() -> None:
    """No other package imports SQLAlchemy or Alembic."""
    files = [p for p in python_files("service") if not p.is_relative_to(REPOSITORY / "service" / "store")]
    assert breaches(files, {"sqlalchemy", "alembic"}) == []


def test_nothing_reads_pickles() -> None:
    """No pickle module is imported, `torch.load` has `weights_only=True`, OpenCV reads no video."""
    files = python_files("micromodels", "service", "scripts")
    assert breaches(files, {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}) == []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called != "cv2.VideoCapture", f"{path}:{node.lineno}"
            if called == "torch.load":
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                assert safe, f"{path}:{node.lineno}: torch.load without weights_only=True"


def test_the_light_client_loads_nothing_heavy() -> None:
    """Importing the stubs and the client in a fresh interpreter leaves torch, numpy and the rest unloaded."""
    stubs = [
        ".".join(p.relative_to(REPOSITORY).with_suffix("").parts)
        for p in python_files("micromodels/v1")
        if p.stem != "__init__"
    ]
    assert stubs
    modules = [*stubs, "micromodels.client"]
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def front_doors() -> list[Path]:
    """The modules that callers import: those directly in the library, and packages that re-export."""
    modules = [p for p in (REPOSITORY / "micromodels").glob("*.py") if not p.name.startswith("_")]
    packages = [p for p in python_files("micromodels") if p.name == "__init__.py" and "v1" not in p.parts]
    return modules + [
        p for p in packages if re.search(r"^(from micromodels|__all__)", p.read_text(encoding="utf-8"), re.M)
    ]


@pytest.mark.parametrize("path", front_doors(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_public_names_are_said(path: Path) -> None:
    """A module that callers import says what it is for and, in `__all__`, what is for them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    bound: dict[str, ast.stmt] = {}
    # What a package imports on first use, type checkers see in an `if`.
    later = [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]
    for node in [*tree.body, *later]:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            bound[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            bound |= {n.id: node for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name: node for alias in node.names}
    assert isinstance(bound.get("__all__"), ast.Assign)
    exported = ast.literal_eval(bound["__all__"].value)
    assert len(set(exported)) == len(exported)
    assert set(exported) <= set(bound), f"in __all__ but not there: {sorted(set(exported) - set(bound))}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_can_be_run(path: Path) -> None:
    """Every script without a suffix is executable, names its interpreter and says in its head what it does."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert os.access(path, os.X_OK)
    assert lines[0].startswith("#!/usr/bin/env ")
    assert lines[1].startswith(("# ", '"""'))


@pytest.mark.parametrize("name", ["test", "check"])
def test_the_short_scripts_stay_short(name: str) -> None:
    """`scripts/test` and `scripts/check` are under 20 lines: CI and people read them."""
    assert len((REPOSITORY / "scripts" / name).read_text(encoding="utf-8").splitlines()) < 20


DOCUMENTS = [
    path.relative_to(REPOSITORY).as_posix()
    for path in (
        REPOSITORY / "README.md",
        REPOSITORY / "scripts/demo_seeds/README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    )
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_documents_exist(document: str) -> None:
    """Links, and paths in backticks that begin with a folder of the repository, name files that are there."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    folders = "micromodels|service|scripts|docs|protos|tests"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)", text)
    here = (REPOSITORY / document).parent
    missing = [n for n in links if not (here / n).exists()] + [n for n in paths if not (REPOSITORY / n).exists()]
    assert missing == []


def test_commands_to_install_name_the_distribution() -> None:
    """`micromodels` on the package index is another program."""
    texts = [*python_files("micromodels", "service", "scripts"), *SCRIPTS, *(REPOSITORY / "docs").rglob("*.md")]
    found = [
        f"{path.relative_to(REPOSITORY)}: {command}"
        for path in [*texts, REPOSITORY / "README.md"]
        for command in re.findall(
            r"(?:pip install|uvx --from) ['`\"]*micromodels(?!-video)\b.*", path.read_text(encoding="utf-8")
        )
    ]
    assert found == []


def test_the_lock_fits_the_project_file() -> None:
    """Every package that `pyproject.toml` asks for is in `requirements.lock`, at a version within its range."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked: dict[str, str] = {}
    for line in (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            locked[_normal(requirement.name)] = str(requirement.specifier).removeprefix("==")
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[_normal(requirement.name)]), requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
