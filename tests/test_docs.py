"""The documentation is built as a site without a warning, and the site needs nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LOADING = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""Elements that load something, by the attribute that says what."""
IDENTIFIES = {"canonical"}
"""Links in the head that load nothing."""


class Loads(HTMLParser):
    """Addresses of everything that a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in LOADING and found.get("rel") not in IDENTIFIES:
            self.addresses.append(found.get(LOADING[tag]) or "")


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site, as scripts/docs builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # Proxies that lead nowhere: whatever the build would fetch, it would fail to.
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "WARNING" not in said
    return folder


def test_the_script_builds_what_is_tested(repository: Path) -> None:
    """The same program, as strictly."""
    script = (repository / "scripts" / "docs").read_text(encoding="utf-8")
    assert "NO_MKDOCS_2_WARNING=1" in script
    assert re.search(r'-m mkdocs "\$\{@:-build\}" --strict$', script, re.MULTILINE)


def test_every_page_is_built(site: Path, repository: Path) -> None:
    """With the picture of the first screen beside it."""
    pages = {path.relative_to(repository / "docs").with_suffix(".html") for path in (repository / "docs").rglob("*.md")}
    assert len(pages) > 20
    assert all((site / page).is_file() for page in pages)
    assert (site / "images" / "demo-strip.jpg").is_file()


def test_nothing_comes_from_another_host(site: Path) -> None:
    """Fonts, scripts, styles and pictures lie in the site."""
    for path in site.rglob("*.html"):
        loaded = Loads(path.read_text(encoding="utf-8")).addresses
        assert loaded, path
        assert [address for address in loaded if re.match(r"(\w+:)?//", address)] == [], path
    for path in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")) == [], path


def test_lists_and_tables_are_shown_as_such(site: Path) -> None:
    """Markdown has dialects: a list without an empty line before it is a list on some sites, and text on this one."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|script|style)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert re.findall(r"(?:^|<p>)(?:- |\d+\. |\|.*\|$).*", text, re.MULTILINE) == [], path


def test_diagrams_need_no_script(repository: Path) -> None:
    """Mermaid would be fetched from another host when a page is opened."""
    for path in (repository / "docs").rglob("*.md"):
        assert "```mermaid" not in path.read_text(encoding="utf-8"), path


def test_search_knows_the_pages(site: Path) -> None:
    """The index has text of the tutorial, and of docstrings."""
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "tutorial.html" in index
    assert "micromodels.recipes.base.train" in index


def test_the_reference_of_python_comes_from_docstrings(site: Path) -> None:
    """Functions, classes and errors, each with an anchor of its own."""
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("recipes.base.train", "types.Label", "correction.session.LabelSession", "client.Client", "errors"):
        assert f'id="micromodels.{name}' in page, name
