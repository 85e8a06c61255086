"""The page's own tests, run by Node; its lock; and the fixtures that tie its masks to pycocotools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco


@pytest.fixture(scope="session")
def page(repository: Path) -> Path:
    """The folder of the page's sources with its packages installed; skips, and fails in CI, where Node is absent."""
    folder = repository / "service" / "page"
    if not (folder / "node_modules").is_dir():
        if os.environ.get("CI") or shutil.which("npm"):
            pytest.fail("scripts/setup has not installed the page's packages")
        pytest.skip("npm is not installed")
    return folder


def test_the_pages_own_tests_pass(page: Path) -> None:
    done = subprocess.run(
        ["npm", "run", "-s", "test"], cwd=page, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fixtures_of_masks_are_what_pycocotools_gives(repository: Path) -> None:
    """The TypeScript reads and writes the same strings; see service/page/test/rle.test.ts."""
    fixtures = json.loads((repository / "service/page/test/rle_fixtures.json").read_text())
    assert len(fixtures) > 5
    for fixture in fixtures:
        pixels = np.array([[int(digit) for digit in row] for row in fixture["rows"]], np.uint8)
        encoded = coco.encode(np.asfortranarray(pixels))
        assert encoded["counts"].decode() == fixture["counts"], fixture["name"]
        assert encoded["size"] == [fixture["height"], fixture["width"]]


def test_the_lock_names_no_host_and_licenses_are_permissive(repository: Path) -> None:
    """The packages come from whatever registry npm is set to; what is shipped may be shipped."""
    packages = json.loads((repository / "service/page/package-lock.json").read_text())["packages"]
    assert all("resolved" not in package for package in packages.values())
    shipped = {name: package for name, package in packages.items() if name and not package.get("dev")}
    assert shipped
    for name, package in shipped.items():
        assert package["license"] in ("MIT", "Apache-2.0", "ISC", "BSD-3-Clause", "0BSD"), name


def test_the_wheel_brings_the_page(built: Path, wheel: Path) -> None:
    """Whoever installs the package has the page, whole, without Node; its sources stay behind."""
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if name.startswith(("service/web/static/", "service/page"))}
    assert held == {f"service/web/static/{path.relative_to(built)}" for path in built.rglob("*") if path.is_file()}


def test_the_built_page_has_no_inline_script(built: Path) -> None:
    """The Content-Security-Policy would stop it."""
    text = (built / "index.html").read_text()
    assert '<script type="module" crossorigin src="/assets/' in text
    assert "<style" not in text
    assert " style=" not in text
    assert "http" not in text
    licenses = (built / "licenses.txt").read_text()
    assert all(name in licenses for name in ("preact", "konva", "lucide", "idb-keyval"))
