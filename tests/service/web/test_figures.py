"""Figures and checks: what the page shows of how good the labels are, and that one gets from there to the frame."""

from __future__ import annotations

import zipfile
from pathlib import Path

from playwright.sync_api import Browser, Locator, expect

from micromodels.v1 import video_pb2
from service.reports.audit_report_reader import read_report
from tests.service.api.harness import box
from tests.service.web.browsing import Visit, visiting
from tests.service.web.harness import Served


def _trained(served: Served, video: str) -> None:
    """Frames 0 and 23 drawn, the others labeled by the fake micro-model."""
    for _ in served.client.auto_label(video, [box(0), box(23)]):
        pass


def _open_review(visit: Visit, video: str) -> None:
    page = visit.open_video(video)
    page.get_by_role("tab", name="Review").click()
    expect(page.locator(".suggestion").first).to_be_visible()
    visit.idle()


def _chart(dialog: Locator, heading: str) -> Locator:
    return dialog.locator(".chart").filter(has_text=heading)


def test_diagnostics_are_those_of_the_server(
    served: Served, browser: Browser, video: video_pb2.Video, axe: Path, built: Path
) -> None:
    """A correction is counted, its gain is drawn, the tables say the same; in both themes for everybody to read."""
    _trained(served, video.name)
    for scheme in ("light", "dark"):
        with visiting(served, browser, color_scheme=scheme) as visit:
            _open_review(visit, video.name)
            page = visit.page
            page.locator(".stage").click(position={"x": 5, "y": 5})
            page.keyboard.press("n")
            visit.at_frame(int(page.locator("#frame-number").input_value()))
            page.keyboard.press("Control+Shift+ArrowDown")
            visit.message("frames updated in")
            visit.idle()
            page.keyboard.press("d")
            dialog = page.get_by_role("dialog", name="Diagnostics")
            expect(dialog.locator(".figures")).to_contain_text("of 24")
            expect(dialog).to_contain_text("Quality, expected and observed")
            expect(dialog.locator(".bar-rows").first).to_contain_text("50 %")  # what the fake says of itself
            expect(dialog.locator("svg.columns")).to_have_attribute("role", "img")
            expect(dialog).to_contain_text("Hardest frames")
            found = served.rpc("micromodels.v1.DiagnosticsService/GetDiagnostics", {"name": video.name})
            gained = dialog.locator(".chart").filter(has=page.get_by_role("heading", name="Effect of each correction"))
            gained.locator("summary").click()
            expect(gained.locator("tbody tr")).to_have_count(len(found["corrections"]))
            expect(gained.locator("tbody tr").last).to_contain_text("%")  # confidence before and after
            over_time = _chart(dialog, "over time")
            expect(over_time.locator(".trend-dot")).to_have_count(len(found["verdicts"]))
            expect(dialog.locator(".bar-and-trend .trend")).to_have_count(2)  # the class, and the object
            versions = dialog.locator(".chart").filter(
                has=page.get_by_role("heading", name="Versions of the micro-model")
            )
            expect(versions.locator("tbody tr")).to_contain_text("version 1")
            expect(dialog.locator(".checks")).to_contain_text("gone for one frame")
            assert visit.serious_findings(axe) == []
            dialog.locator(".checks .suggestion").click()
            visit.at_frame(6)
            expect(dialog).to_be_hidden()


def test_an_auditor_gets_a_report_from_the_page(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Export writes it; it is whole, and says who drew what and what became of the micro-model's labels."""
    _trained(served, video.name)
    list(served.client.review.correct_labels(video.name, [box(9, x1=40)]))
    page = visit.open_video(video.name)
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Audit report").click()
    found = read_report(download.value.path())
    assert found.problems == []
    assert found.people["local"]["drew"] == 3
    (model,) = found.models.values()
    assert model["corrected"] == 1


def test_every_format_is_exported_from_the_page(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """The dialog lists what the server can write, and what each format loses; a folder comes as a zip."""
    served.client.write_labels(video.name, [box(0)])
    page = visit.open_video(video.name)
    page.get_by_role("button", name="Export").click()
    for one in served.client.get_capabilities().label_formats:
        button = page.get_by_role("button", name=f"{one.title} ({'.zip' if one.is_folder else one.extension})")
        expect(button).to_contain_text(one.loses or "Keeps everything")
    with page.expect_download() as download:
        page.get_by_role("button", name="Indexed PNG masks").click()
    assert download.value.suggested_filename.endswith("-masks.zip")
    assert "tracks.json" in zipfile.ZipFile(download.value.path()).namelist()


def test_what_looks_wrong_is_a_click_away(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """The checks stand in the review panel; a click selects the object and goes to the frame."""
    _trained(served, video.name)
    _open_review(visit, video.name)
    checks = visit.page.locator(".checks")
    expect(checks).to_contain_text("Finds jumps in size or position")
    checks.get_by_role("button", name="Check", exact=True).click()
    checks.get_by_text("Gap: gone for one frame").click()
    visit.at_frame(6)
    expect(visit.page.locator(".timeline-name.selected")).to_contain_text("square 1")
