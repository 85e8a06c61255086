"""A real Chromium on the page, and the few gestures that tests make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, expect

from tests.service.web.harness import Served
from tests.service.web.victim import Victim

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1280, "height": 800}
TIMEOUT_MS = 90_000  # machines of CI are busy
expect.set_options(timeout=TIMEOUT_MS)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MARGIN = 16


def find_chromium() -> str:
    """Path of the system's Chromium; installed by apt where that can be, else the test skips, and fails in CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if not found and os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"check": False, "capture_output": True, "timeout": 300}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)  # type: ignore[call-overload]
        packages = ["chromium", "fonts-inter"]
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            **quiet,  # type: ignore[call-overload]
        )
        found = next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        if os.environ.get("CI"):
            pytest.fail("Chromium is needed in CI")
        pytest.skip("Chromium is not installed")
    return found


class Visit:
    """One person's browser on the page.

    Args:
        served: the server.
        context: of the browser; what it keeps is this person's alone.
    """

    def __init__(self, served: Served | Victim, context: BrowserContext) -> None:
        self.served, self.context = served, context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        # Of a failed request the response says more than the console.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url} {response.request.post_data or ''}"[:400])

    def check(self) -> None:
        """Nothing went wrong behind the scenes, but for what the test expects."""
        unexpected = [one for one in self.complaints if not any(part in one for part in self.expected)]
        assert not unexpected, unexpected

    def open(self, name: str = "") -> Page:
        """Go to the page of a project or video, or to the list of projects."""
        self.page.goto(f"{self.served.url}#/{name}")
        return self.page

    def open_video(self, name: str) -> Page:
        """Open a video and wait for its first frame and its labels."""
        self.open(name)
        self.at_frame(0)
        self.page.wait_for_selector(".editor[data-state='busy'], .editor[data-state='idle']")
        return self.page

    def at_frame(self, frame: int) -> None:
        """Wait until exactly this frame is on the screen."""
        self.page.wait_for_selector(f".stage[data-shown='{frame}']")

    def go(self, frame: int) -> None:
        """Go to a frame by its number, with keys."""
        self.page.keyboard.press("g")
        self.page.keyboard.type(str(frame))
        self.page.keyboard.press("Enter")
        self.at_frame(frame)

    def refreshed(self) -> None:
        """Wait for two refreshes of the screen: what was just done is on it then."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def saved(self) -> None:
        """Wait until the server has every edit."""
        self.refreshed()
        expect(self.page.locator(".saved")).to_have_text("Saved")

    def idle(self) -> None:
        """Wait until everything is saved and its results have arrived: labels, suggestions, cuts, history."""
        self.refreshed()
        expect(self.page.locator(".editor")).to_have_attribute("data-state", "idle", timeout=2 * TIMEOUT_MS)

    def message(self, text: str, *, timeout: float = TIMEOUT_MS) -> None:
        """Wait until the page has shown this message, even if it has left the screen since."""
        expect(self.page.locator(".message-log")).to_contain_text(text, timeout=timeout)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the frame lies on the screen, while the frame fits."""
        rect = self.page.locator(".stage-canvas").bounding_box()
        assert rect
        width, height = self.size
        scale = min((rect["width"] - 2 * _MARGIN) / width, (rect["height"] - 2 * _MARGIN) / height)
        left, top = rect["x"] + (rect["width"] - width * scale) / 2, rect["y"] + (rect["height"] - height * scale) / 2
        return left + x * scale, top + y * scale

    size = (128, 96)

    def drag(self, *points: tuple[float, float], steps: int = 8) -> None:
        """Draw from point to point of the frame with the button down."""
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=steps)
        self.page.mouse.up()

    def serious_findings(self, axe: Path) -> list[str]:
        """What axe-core finds on the page as it is, serious and critical."""
        self.page.evaluate(axe.read_text(encoding="utf-8"))  # not a script element: the page allows none
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['target']} {node.get('failureSummary', '')}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@contextmanager
def visiting(served: Served | Victim, browser: Browser, **options: Any) -> Iterator[Visit]:
    """A visit with storage of its own; complaints of the browser fail the test."""
    # Nothing fades or slides: what is to be clicked stays where it is, and colors are what they will be.
    context = browser.new_context(viewport=SIZE, **{"reduced_motion": "reduce", **options})
    try:
        visit = Visit(served, context)
        yield visit
        visit.check()
    finally:
        context.close()


def labels_of(served: Served, video: str) -> dict[tuple[int, str], dict[str, Any]]:
    """All labels that the server has of a video, by frame and name."""
    lines = served.lines("micromodels.v1.LabelService/StreamLabels", {"parent": video})
    labels = [label for line in lines[:-1] for label in line["message"]["labels"]]
    return {
        (
            int(one.get("frameIndex", 0)),
            one["object"]["track"] if "object" in one else one["frameClass"]["frameClass"],
        ): one
        for one in labels
    }


def summary(label: dict[str, Any]) -> str:
    """State and source of a label, for comparing."""
    return json.dumps([label.get("object", {}).get("state"), label.get("provenance", {}).get("kind")])
