"""For everybody, and at any length: accessibility in both themes, and 20,000 frames."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from micromodels.client import Client
from micromodels.types import Box, FrameLabel, Label, ObjectClass, Ontology, Provenance, ProvenanceKind, State
from micromodels.v1 import video_pb2
from micromodels.video import write_video
from tests.service.api.harness import box
from tests.service.web.browsing import Visit, visiting
from tests.service.web.harness import Served

FRAMES = 20_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(
    served: Served, browser: Browser, video: video_pb2.Video, axe: Path, scheme: str
) -> None:
    """Every view, every panel and every dialog."""
    served.client.write_labels(video.name, [box(0), box(0, "2", "letter"), box(12), FrameLabel(3, "bright", True)])
    with visiting(served, browser, color_scheme=scheme) as visit:
        found: dict[str, list[str]] = {}
        page = visit.open()
        page.get_by_role("button", name="New project").click()
        page.get_by_role("dialog").wait_for()
        found["new project"] = visit.serious_findings(axe)
        page = visit.open(video.name.rpartition("/videos/")[0])
        page.locator("a.card-main.video").wait_for()
        found["project"] = visit.serious_findings(axe)
        page.get_by_role("button", name="Classes").click()
        page.get_by_role("dialog").wait_for()
        found["classes"] = visit.serious_findings(axe)
        visit.open_video(video.name)
        page.keyboard.press("1")
        for tab in ("Label", "Train", "Review", "History"):
            page.get_by_role("tab", name=tab).click()
            found[tab] = visit.serious_findings(axe)
        page.keyboard.press("Escape")
        for key, name in (("?", "Keyboard shortcuts"), ("w", "Fix identities"), ("d", "Diagnostics")):
            page.keyboard.press(key)
            page.get_by_role("dialog", name=name).wait_for()
            if key == "d":
                page.locator(".figures").wait_for()
            found[name] = visit.serious_findings(axe)
            page.keyboard.press("Escape")
        page.get_by_role("button", name="Export").click()
        page.get_by_role("dialog").wait_for()
        found["export"] = visit.serious_findings(axe)
        assert {view: findings for view, findings in found.items() if findings} == {}


@pytest.fixture(scope="module")
def long_video(served: Served, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A video of 20,000 tiny frames with two objects on each of them."""
    clip = tmp_path_factory.mktemp("long") / "long.mp4"
    base = np.full((48, 64, 3), 60, np.uint8)

    def frames():  # type: ignore[no-untyped-def]
        for index in range(FRAMES):
            image = base.copy()
            x = index % 48
            image[16:32, x : x + 16] = (220, 40, index % 200)
            yield image

    write_video(clip, frames(), Fraction(25))
    project = served.project(Ontology((ObjectClass("square"),)))
    video = served.client.upload_video(project.name, clip)
    made_by = Provenance(ProvenanceKind.MODEL, "fake@1")
    with Client(served.address, timeout_seconds=120) as client:
        for start in range(0, FRAMES, 5000):
            client.write_labels(
                video.name,
                [
                    Label(
                        frame,
                        track,
                        "square",
                        State.VISIBLE if frame % 700 else State.ABSENT,
                        Box(frame % 48, 16, frame % 48 + 16, 32) if frame % 700 else None,
                        0.5 + (frame % 500) / 1000,
                        made_by,
                    )
                    for frame in range(start, start + 5000)
                    for track in ("1", "2")
                ],
            )
    return video.name


@pytest.mark.slow
def test_twenty_thousand_frames_stay_smooth_and_flat(
    served: Served, browser: Browser, long_video: str, built: Path, record_property: Callable[[str, object], None]
) -> None:
    """Scrubbed and stepped through from end to end: neither memory nor elements grow with what was looked at."""
    with visiting(served, browser) as visit:
        visit.size = (64, 48)
        visit.expected = ("CorrectionService",)  # there is no micro-model to ask for suggestions
        page = visit.open_video(long_video)
        expect(page.locator(".timeline-name")).to_have_count(2)
        visit.idle()  # all labels are in memory before it is measured
        expect(page.locator(".state-tag").first).to_contain_text("absent")
        session = visit.context.new_cdp_session(page)
        session.send("HeapProfiler.enable")

        def heap() -> float:
            session.send("HeapProfiler.collectGarbage")
            return float(page.evaluate("performance.memory.usedJSHeapSize")) / 1e6

        page.evaluate(
            """() => {
                window.pauses = [];
                new PerformanceObserver((list) => list.getEntries().forEach((one) => pauses.push(one.duration)))
                    .observe({ type: 'longtask' });
            }"""
        )
        strip = page.locator(".timeline-strips").bounding_box()
        assert strip

        def scrub() -> None:
            page.mouse.move(strip["x"] + 2, strip["y"] + 30)
            page.mouse.down()
            page.mouse.move(strip["x"] + strip["width"] - 2, strip["y"] + 30, steps=120)
            page.mouse.move(strip["x"] + 40, strip["y"] + 30, steps=120)
            page.mouse.up()

        scrub()
        first = heap()
        for _ in range(4):
            scrub()
        for _ in range(3):
            page.get_by_role("button", name="Zoom the timeline in").click()
        visit.go(19_000)
        for _ in range(60):
            page.keyboard.press("ArrowRight")
        visit.at_frame(19_060)
        assert heap() < first * 1.3 + 10, "memory grows with what was looked at"
        pauses = page.evaluate("pauses")
        # How long the page was busy in one piece depends on the machine; it is recorded, not checked.
        record_property("longest_pauses_ms", sorted(pauses)[-5:])
        record_property("heap_mb", [first, heap()])
        assert page.evaluate("document.querySelectorAll('*').length") < 1500, "elements grow with the video"


def test_the_next_prefetched_frame_is_there_at_once(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Stepping on shows frames that were fetched ahead: no request, and no more than a few screen refreshes."""
    page = visit.open_video(video.name)
    for frame in range(1, 12):
        page.keyboard.press("ArrowRight")
        visit.at_frame(frame)
    expect(page.locator(".timeline-strips .overlay")).to_have_attribute("data-ahead", "24")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    waits = page.evaluate(
        """async () => {
            const stage = document.querySelector('.stage');
            const waits = [];
            for (let frame = 12; frame < 22; frame++) {
                let refreshes = 0;
                dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
                while (stage.dataset.shown !== String(frame)) {
                    await new Promise(requestAnimationFrame);
                    refreshes++;
                }
                waits.push(refreshes);
            }
            return waits;
        }"""
    )
    assert not [url for url in requests if any(f"/{frame}.jpg" in url for frame in range(12, 22))]
    assert max(waits) <= 3, "60 ms are three to four refreshes of the screen"
