"""The server is killed with kill -9 wherever it hurts and started again: the story goes on, and ends as usual."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.service.web.browsing import Visit, visiting
from tests.service.web.victim import Victim


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path / "data")
    try:
        yield made
    finally:
        made.kill()


class _Trap:
    """Kills the server at a call of the page: before the server has it, or when it has answered and the page has not
    heard. Springs once each time it is set; the page waits without a connection until ``again``.

    It lies in the page's way from the beginning: a browser may send what follows the very next moment past a trap that
    was only just laid.
    """

    def __init__(self, page: Page, victim: Victim) -> None:
        self._page, self._victim = page, victim
        self._call, self._answered, self._left = "", False, 0
        page.route("**/micromodels.v1.*/*", self._pass)

    def set(self, call: str, *, answered: bool, at: int = 1) -> None:
        """Spring at the ``at``-th such call from now on."""
        self._call, self._answered, self._left = call, answered, at

    def _pass(self, route: Route) -> None:
        if not self._left or not route.request.url.endswith(f"/micromodels.v1.{self._call}"):
            return route.continue_()
        self._left -= 1
        if self._left:
            return route.continue_()
        if self._answered:
            route.fetch()
        self._victim.kill()
        return route.abort()

    def again(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until the page has noticed, do something without a connection, and start the server again."""
        expect(self._page.locator(".banner")).to_be_visible()
        assert not self._left, f"the page made no call {self._call}"
        meanwhile()
        self._victim.start()
        expect(self._page.locator(".banner")).to_be_hidden()


def _make_project(page: Page) -> None:
    page.get_by_role("heading", name="Label a few frames").wait_for()
    page.keyboard.press("Enter")
    page.get_by_label("Name").fill("Killed")
    page.get_by_label("Object classes").fill("slow square")  # the fake library takes its time for it
    page.keyboard.press("Enter")
    page.wait_for_selector(".drop")


def _upload(page: Page, trap: _Trap, clip: Path) -> None:
    trap.set("VideoService/UploadChunk", answered=True, at=2)
    page.set_input_files("input[type=file]", clip)
    trap.again()
    expect(page.locator("a.card-main.video")).to_contain_text("24 frames")
    page.locator("a.card-main.video").click()


def _draw(visit: Visit, trap: _Trap) -> None:
    page = visit.page
    visit.at_frame(0)
    expect(page.locator(".timeline-strips .overlay")).to_have_attribute("data-ahead", "24")
    trap.set("CorrectionService/CorrectLabels", answered=True)
    page.keyboard.press("b")
    visit.drag((20, 30), (60, 70))

    def draw_another() -> None:
        visit.go(23)
        page.keyboard.press("b")
        visit.drag((30, 30), (70, 70))
        expect(page.get_by_text("2 edits stored in this browser")).to_be_visible()

    trap.again(draw_another)
    visit.saved()


def _train(page: Page, victim: Victim) -> None:
    page.keyboard.press("t")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".flip img").first).to_be_visible()
    victim.kill()
    expect(page.locator(".banner")).to_be_visible()
    victim.start()
    enough = page.get_by_role("button", name="Good enough, stop now")
    expect(enough).to_be_enabled()
    enough.click()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def _review(visit: Visit, victim: Victim, trap: _Trap) -> int:
    page = visit.page
    page.get_by_role("tab", name="Review").click()
    expect(page.locator(".suggestion").first).to_be_visible()
    visit.idle()
    page.locator(".stage").click(position={"x": 5, "y": 5})
    page.keyboard.press("n")
    frame = int(page.locator("#frame-number").input_value())
    visit.at_frame(frame)
    page.keyboard.press("Control+Shift+ArrowDown")
    visit.saved()
    victim.kill()  # while the frames around it are updated
    page.keyboard.press("Control+ArrowDown")
    expect(page.locator(".banner")).to_be_visible()
    victim.start()
    expect(page.locator(".banner")).to_be_hidden()
    visit.idle()
    trap.set("ReviewService/ReviewLabels", answered=True)
    page.keyboard.press("a")
    trap.again()
    visit.message(f"Frame {frame} accepted")
    return frame


def _export(page: Page) -> list[dict[str, Any]]:
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON Lines").click()
    return [json.loads(line) for line in download.value.path().read_text().splitlines()]


@pytest.mark.slow
def test_the_server_may_die_anywhere(
    victim: Victim, browser: Browser, tmp_path: Path, tiny_clip: Path, built: Path
) -> None:
    """Killed in an upload, in drawing, in training, in a correction and in a review: every edit is there once, every
    other frame has its label, and nobody had to reload the page."""
    clip = tmp_path / "long.mp4"
    clip.write_bytes((tiny_clip / "video.mp4").read_bytes() + bytes(5 << 20))  # three chunks; the end is passed over
    with visiting(victim, browser, accept_downloads=True) as visit:
        # A chunk whose answer was lost is sent again, and refused with the offset to go on from.
        visit.expected = ("net::ERR", "fetch", "Failed", "503:", "VideoService/UploadChunk")
        trap = _Trap(visit.page, victim)
        page = visit.open()
        _make_project(page)
        _upload(page, trap, clip)
        _draw(visit, trap)
        _train(page, victim)
        corrected = _review(visit, victim, trap)
        visit.idle()
        lines = _export(page)
    assert {line["frame"] for line in lines} == set(range(24))
    by_hand = {line["frame"]: line for line in lines if line.get("provenance", {}).get("kind", "human") == "human"}
    assert set(by_hand) == {0, corrected, 23}
    box = by_hand[corrected]["box"]
    assert box[1] == pytest.approx(by_hand[0]["box"][1] + 11, abs=0.01), "moved by 10 pixels and by one"
    assert by_hand[0]["box"] == pytest.approx([20, 30, 60, 70], abs=0.6)
