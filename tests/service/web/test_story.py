"""The whole mission without a command line: an empty server in, an accepted and exported video out, on a real clip.

With ``MICROMODELS_SCREENSHOTS`` naming a folder, the pictures of docs/reference/page.md are written there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from micromodels.video import open_video, write_video
from tests.service.web.browsing import Visit, labels_of, visiting
from tests.service.web.harness import Served

SIZE = (640, 360)
EVERY = 3
SEEDS = {8: 2, 56: 18, 116: 38}
"""Frames of the demo's seeds, and where they are in the shortened clip (EVERY third frame, from 2 on)."""


@pytest.fixture(scope="module")
def clip(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Big Buck Bunny, (c) 2008 Blender Foundation, CC BY 3.0; every third frame, half the size."""
    path = tmp_path_factory.mktemp("clip") / "bunny.mp4"

    def frames() -> Iterator[np.ndarray]:
        with open_video(real_data / "codec" / "misc" / "bigbuckbunny.mp4") as video:
            for index, image in video.frames(2):
                if (index - 2) % EVERY == 0:
                    yield cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)

    write_video(path, frames(), Fraction(25, EVERY))
    return path


@pytest.fixture(scope="module")
def outlines(repository: Path) -> dict[int, list[tuple[float, float]]]:
    """Outlines of the bunny by frame of the shortened clip, thinned to what a person would click."""
    lines = (repository / "scripts" / "demo_seeds" / "bigbuckbunny.jsonl").read_text().splitlines()
    found = {}
    for line in lines:
        seed = json.loads(line)
        ring = cv2.approxPolyDP(np.float32(seed["polygon"]) / 2, 1.5, True)[:, 0]
        first = ring[0]
        # A click near the first corner closes the polygon.
        inner = [(float(x), float(y)) for x, y in ring[1:] if np.hypot(x - first[0], y - first[1]) > 8]
        found[SEEDS[seed["frame"]]] = [(float(first[0]), float(first[1])), *inner]
    return found


def _picture(page: Page, name: str) -> None:
    folder = os.environ.get("MICROMODELS_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(400)  # what fades has faded
        page.screenshot(path=Path(folder) / f"page-{name}.jpg", type="jpeg", quality=88)


_LONG_MS = 600_000  # a real network on the cores that others leave
_STEPS_AT_LEAST = """
    (least) => Number(/Step ([0-9]+)/.exec(document.querySelector('.running')?.textContent ?? '')?.[1]) >= least
"""


def _next_with_a_shape(visit: Visit, labeled: dict[tuple[int, str], dict[str, Any]]) -> int:
    """Go to the first suggestion where the micro-model saw the bunny; the frame."""
    page = visit.page
    for _ in range(12):
        before = page.locator(".stage").get_attribute("data-shown")
        page.keyboard.press("n")
        expect(page.locator(".stage")).not_to_have_attribute("data-shown", before or "")
        visit.at_frame(int(page.locator("#frame-number").input_value()))
        frame = int(page.locator("#frame-number").input_value())
        shapes = {kind for (at, _), label in labeled.items() if at == frame for kind in label.get("object", {})}
        if shapes & {"box", "polygon", "mask"}:
            return frame
    raise AssertionError("the bunny is on no frame that is worth a look")


@pytest.mark.slow
def test_the_whole_story(
    tmp_path: Path, browser: Browser, built: Path, clip: Path, outlines: dict[int, list[tuple[float, float]]]
) -> None:
    """Project, classes, upload, three outlines, training, correction, review, export; the file says who did what."""
    own = Served(tmp_path / "server", clip, preload="")
    try:
        with visiting(own, browser, color_scheme="light", accept_downloads=True) as visit:
            visit.size = SIZE
            page = visit.open()
            page.get_by_role("heading", name="Label a few frames").wait_for()
            expect(page.get_by_role("button", name="Create your first project")).to_be_focused()
            _picture(page, "empty")
            page.keyboard.press("Enter")
            page.get_by_label("Name").fill("Big Buck Bunny")
            page.get_by_label("Object classes").fill("bunny")
            page.keyboard.press("Enter")
            page.get_by_role("button", name="Classes").click()
            page.get_by_role("button", name="Add a class").click()
            page.get_by_label("Name of the class").last.fill("outside")
            page.get_by_label("Kind").last.select_option("frame")
            _picture(page, "classes")
            page.get_by_role("button", name="Save").click()
            page.set_input_files("input[type=file]", clip)
            page.locator("a.card-main.video").wait_for(timeout=60_000)
            page.wait_for_function("() => document.querySelector('.poster img')?.complete")
            _picture(page, "project")
            page.locator("a.card-main.video").click()
            visit.at_frame(0)
            video = page.url.partition("#/")[2]

            for frame, ring in outlines.items():
                visit.go(frame)
                page.keyboard.press("1" if frame != 2 else "o")
                page.keyboard.press("p")
                for point in ring:
                    page.mouse.click(*visit.at(*point))
                if frame == 18:
                    _picture(page, "drawing")
                page.mouse.click(*visit.at(*ring[0]))
                expect(page.locator(".object .by")).to_have_text("by hand")
                visit.saved()
            drawn = labels_of(own, video)
            assert sorted(frame for frame, _ in drawn) == [2, 18, 38]
            visit.go(2)
            page.get_by_role("radio", name="no", exact=True).click()
            visit.go(38)
            page.get_by_role("radio", name="yes", exact=True).click()
            visit.saved()

            page.keyboard.press("t")
            page.get_by_role("radio", name="Quick").click()
            page.get_by_role("button", name="Train", exact=True).click()
            expect(page.locator(".flip img").first).to_be_visible(timeout=_LONG_MS)
            page.wait_for_function(_STEPS_AT_LEAST, arg=60, timeout=_LONG_MS)  # of 165: there is time to say "enough"
            _picture(page, "training")
            page.get_by_role("button", name="Good enough, stop now").click()
            expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible(timeout=_LONG_MS)
            visit.idle()
            page.keyboard.press("Escape")
            visit.go(28)
            page.get_by_role("tab", name="Label").click()
            expect(page.locator(".object .by").first).to_contain_text("%")
            _picture(page, "labeled")
            labeled = labels_of(own, video)
            assert {frame for frame, name in labeled if name != "outside"} == set(range(44))
            for key, label in drawn.items():
                assert labeled[key]["object"] == label["object"], "what a person drew stays as it was"

            page.get_by_role("tab", name="Review").click()
            expect(page.locator(".suggestion").first).to_be_visible(timeout=_LONG_MS)
            page.get_by_label("Confidence at least").focus()
            page.keyboard.press("Home")
            expect(page.get_by_text("expected to be wrong")).to_be_visible()
            visit.idle()
            page.locator(".stage").click(position={"x": 5, "y": 5})
            corrected = _next_with_a_shape(visit, labeled)
            _picture(page, "review")
            page.keyboard.press("1")
            page.keyboard.press("Control+Shift+ArrowRight")
            visit.message("updated in", timeout=_LONG_MS)
            _picture(page, "corrected")
            visit.idle()
            page.keyboard.press("a")
            visit.message(f"Frame {corrected} accepted")
            page.keyboard.press("d")
            expect(page.locator(".trend-dot").first).to_be_visible(timeout=_LONG_MS)
            expect(page.locator(".diagnostics")).to_contain_text("Effect of each correction")
            _picture(page, "diagnostics")
            page.keyboard.press("Escape")
            page.get_by_role("tab", name="History").click()
            expect(page.locator(".changes").last).to_contain_text("by the micro-model")
            _picture(page, "history")
            page.get_by_role("button", name="Theme").click()
            page.get_by_role("button", name="Theme").click()
            page.get_by_role("tab", name="Train").click()
            _picture(page, "dark")

            page.get_by_role("button", name="Export").click()
            with page.expect_download(timeout=60_000) as download:
                page.get_by_role("button", name="JSON Lines").click()
            _picture(page, "export")
            lines = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    finally:
        own.stop()
    assert {line["frame"] for line in lines} == set(range(44))
    by_hand = {line["frame"] for line in lines if line.get("provenance", {}).get("kind", "human") == "human"}
    assert by_hand == {2, 18, 38, corrected}
