"""Retraining in the background: the page shows its progress and outcome, and work continues meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from micromodels.v1 import video_pb2
from tests.service.api.harness import box
from tests.service.web.browsing import TIMEOUT_MS, Visit, labels_of, visiting
from tests.service.web.harness import Served


def _labeled(served: Served, video: str, track: str) -> None:
    """Frames 0 and 23 drawn, the others labeled; then frames 8 and 16 corrected."""
    for _ in served.client.auto_label(video, [box(0, track), box(23, track)]):
        pass
    list(served.client.review.correct_labels(video, [box(8, track, x1=30), box(16, track, x1=50)]))


@pytest.fixture
def eager(tmp_path: Path, tiny_clip: Path) -> Iterator[Served]:
    """A server that retrains after two corrected frames and a short pause."""
    made = Served(tmp_path, tiny_clip / "video.mp4", retrain_corrections=2, retrain_idle_seconds=0.2)
    try:
        yield made
    finally:
        made.stop()


def test_a_retraining_that_the_server_starts_is_shown(eager: Served, browser: Browser, built: Path) -> None:
    """Two corrections and a pause: labels change by themselves, and the page says why."""
    video = eager.video().name
    for _ in eager.client.auto_label(video, [box(0), box(23)]):
        pass
    with visiting(eager, browser) as visit:
        page = visit.open_video(video)
        page.get_by_role("tab", name="Train").click()
        expect(page.locator(".in-background")).to_contain_text("when you pause")
        for frame in (8, 16):
            visit.go(frame)
            page.keyboard.press("1")
            page.keyboard.press("Control+Shift+ArrowDown")
            visit.message("updated in")
        visit.message("Retrained: labels on", timeout=4 * TIMEOUT_MS)  # a pause, a child process, a poll
        outcome = page.locator(".outcome.replaced")
        expect(outcome).to_contain_text("new micro-model 75 %, old one 50 %, on 2 frames drawn by hand")
        visit.go(12)
        page.get_by_role("tab", name="Label").click()
        expect(page.locator(".object .by").first).to_contain_text("99 %")  # without loading the page again
    drawn = {frame for (frame, _), one in labels_of(eager, video).items() if "HUMAN" in one["provenance"]["kind"]}
    assert drawn == {0, 8, 16, 23}


def test_work_continues_while_it_trains(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Started by hand it shows progress and can be ended; no better, it changes nothing, and the page says so."""
    _labeled(served, video.name, "long worse")
    before = labels_of(served, video.name)
    page = visit.open_video(video.name)
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("button", name="Retrain and compare").click()
    chip = page.locator(".job-chip")
    expect(chip).to_contain_text("Background: training", timeout=4 * TIMEOUT_MS)  # a child process begins it
    running = page.locator(".running")
    expect(running).to_contain_text("Retraining in the background")
    expect(running).to_contain_text("Step")
    expect(page.get_by_role("dialog")).to_have_count(0)
    visit.go(5)
    page.keyboard.press("Escape")
    running.get_by_role("button", name="Good enough, stop now").click()
    visit.message("the old micro-model is kept. No label changed (new micro-model 25 %", timeout=4 * TIMEOUT_MS)
    expect(page.locator(".outcome.kept")).to_contain_text("No label changed")
    expect(chip).to_have_count(0)
    assert labels_of(served, video.name) == before
    page.reload()
    visit.at_frame(5)
    page.get_by_role("tab", name="Train").click()
    expect(page.locator(".outcome.kept")).to_contain_text("old one 50 %")
