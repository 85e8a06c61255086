"""The whole mission with keys alone: no mouse moves, no test reaches past the keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from service.reports.audit_report_reader import read_report
from tests.service.web.browsing import Visit, labels_of
from tests.service.web.harness import Served


def _tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until a control has the focus."""
    control = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
    control.wait_for()
    for _ in range(120):
        if control.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way to {name!r} by keys")


def _press(page: Page, role: str, name: str) -> None:
    _tab_to(page, role, name)
    page.keyboard.press("Enter")


def test_from_an_empty_project_to_an_audit_report(served: Served, visit: Visit, tiny_clip: Path) -> None:
    """Project, class, upload, seeds, training, suggestion, correction, acceptance, undo, figures, export."""
    served.project()  # others work here, too
    page = visit.open()
    _press(page, "button", "New project")
    page.keyboard.type("By keys")
    page.keyboard.press("Tab")
    page.keyboard.type("square")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="By keys").wait_for()
    with page.expect_file_chooser() as chooser:
        _press(page, "button", "choose a file")
    chooser.value.set_files(tiny_clip / "video.mp4")
    page.locator("a.card-main.video").wait_for()
    page.locator("a.card-main.video").evaluate("one => one.setAttribute('aria-label', 'the video')")
    _press(page, "link", "the video")
    visit.at_frame(0)
    video = page.url.partition("#/")[2]

    page.keyboard.press("b")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.press("Control+Shift+ArrowDown")
    page.keyboard.press("Enter")
    visit.saved()
    visit.go(23)
    page.keyboard.press(",")
    visit.saved()
    page.keyboard.press("v")
    assert set(labels_of(served, video)) == {(0, "square 1")}, "there is nothing to copy on the frame before"
    page.keyboard.press("b")
    page.keyboard.press("Control+ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.press("Control+Shift+ArrowDown")
    page.keyboard.press("Enter")
    visit.saved()
    assert set(labels_of(served, video)) == {(0, "square 1"), (23, "square 1")}

    page.keyboard.press("t")
    _press(page, "button", "Train")
    expect(page.locator(".flip img").first).to_be_visible()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()
    visit.idle()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("n")
    visit.at_frame(1)
    page.keyboard.press("Control+Shift+ArrowDown")
    visit.message("updated in")
    visit.idle()
    page.keyboard.press("a")
    visit.message("Frame 1 accepted")
    page.keyboard.press("ArrowRight")
    visit.at_frame(2)
    page.keyboard.press("Shift+A")
    visit.message("labels accepted")
    page.keyboard.press("Control+z")
    visit.message("Undone: ")
    page.keyboard.press("Control+Shift+Z")
    visit.message("Redone: ")
    page.keyboard.press("d")
    expect(page.get_by_role("dialog", name="Diagnostics").locator(".figures")).to_contain_text("drawn by hand")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    _press(page, "button", "Export")
    page.get_by_role("dialog").wait_for()
    with page.expect_download() as download:
        report = page.get_by_role("button", name="Audit report")
        for _ in range(20):
            if report.evaluate("one => one === document.activeElement"):
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    found = read_report(download.value.path())
    assert found.problems == []
    assert found.states == {"human": 3, "predicted": 21}
    assert found.people["local"]["accepted"] > 3
