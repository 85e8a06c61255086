"""Two people label the same frames independently; a third person sees their agreement and decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from micromodels.types import Box, Label
from service.domain.access import Role
from tests.service.web.browsing import Visit, visiting
from tests.service.web.harness import Served

PEOPLE = {"anna": Role.ANNOTATOR, "ben": Role.ANNOTATOR, "carla": Role.REVIEWER}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Served]:
    """A server that knows people by their tokens."""
    served = Served(tmp_path_factory.mktemp("two"), tiny_clip / "video.mp4", auth="required")
    try:
        yield served
    finally:
        served.stop()


def _person(clinic: Served, visit: Visit, name: str, project: str, video: str) -> None:
    """Come as somebody to the review panel of the video."""
    token = str(clinic.store.access.issue(name)[1])
    clinic.store.access.set_role(project.removeprefix("projects/"), name, PEOPLE[name])
    visit.expected = ("401:",)
    page = visit.open(video)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    visit.at_frame(0)
    page.get_by_role("tab", name="Review").click()


def _label_independently(visit: Visit, x: float) -> None:
    """Draw a box on both frames, on the second one at x; undo it, redo it; submit."""
    page = visit.page
    page.get_by_role("link", name="Start labeling").click()
    visit.at_frame(2)
    visit.idle()
    expect(page.get_by_role("tab")).to_have_count(1)
    expect(page.locator(".state-tag")).to_have_count(0)  # nothing of anybody else
    page.keyboard.press("b")
    visit.drag((20, 30), (60, 70))
    page.keyboard.press("n")
    visit.at_frame(5)
    page.keyboard.press("b")
    visit.drag((x, 30), (x + 40, 70))
    visit.saved()
    page.keyboard.press("Control+z")
    visit.message("Undone: draw square 1")
    page.keyboard.press("Control+Shift+Z")
    visit.message("Redone: draw square 1")
    page.keyboard.press("ArrowRight")
    visit.at_frame(6)
    page.keyboard.press("x")
    visit.message("This frame is not assigned to you")
    page.reload()
    visit.at_frame(6)
    expect(page.locator(".assigned li").first).to_contain_text("labeled")
    visit.idle()
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("dialog").get_by_role("button", name="Submit").click()
    visit.message("Submitted")
    expect(page.get_by_role("tab")).to_have_count(4)


def test_two_people_and_a_third(clinic: Served, browser: Browser, axe: Path, built: Path) -> None:
    """Assigned, labeled apart, compared side by side with the figures, decided frame by frame, named in the labels."""
    video = clinic.video().name
    project = video.partition("/videos/")[0]
    with visiting(clinic, browser) as carla, visiting(clinic, browser) as anna, visiting(clinic, browser) as ben:
        _person(clinic, carla, "carla", project, video)
        carla.page.get_by_role("button", name="Assign frames").click()
        carla.page.get_by_label("First person").fill("anna")
        carla.page.get_by_label("Second person").fill("ben")
        carla.page.get_by_role("textbox", name="Frames").fill("2, 99")
        expect(carla.page.get_by_text("The last frame is 23")).to_be_visible()
        carla.page.get_by_role("textbox", name="Frames").fill("2, 5")
        assert carla.serious_findings(axe) == []
        carla.page.get_by_role("button", name="Assign", exact=True).click()
        carla.message("2 frames assigned to anna and ben")
        for visit, name, x in ((anna, "anna", 20), (ben, "ben", 40)):
            _person(clinic, visit, name, project, video)
            _label_independently(visit, x)
        assert list(clinic.client.read_labels(video)) == []

        page = carla.page
        page.reload()
        page.get_by_role("tab", name="Review").click()
        page.get_by_role("link", name="Compare").click()
        figures = page.locator(".figures")
        expect(figures).to_contain_text("67 %")  # of 1 and 20/60 of overlap
        chips = page.get_by_role("navigation", name="Frames").get_by_role("button")
        expect(chips.first).to_have_text("2same")
        expect(chips.last).to_have_text("5undecided")
        expect(page.get_by_role("button", name="Save to the video")).to_be_disabled()
        assert carla.serious_findings(axe) == []
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("img", name="Frame 5 by ben: square visible")).to_be_visible()
        page.keyboard.press("2")
        expect(chips.last).to_have_text("5ben")
        page.get_by_role("button", name="Save to the video").click()
        carla.message("Saved to the video.")
        carla.at_frame(0)
    labels = {label.frame: label for label in clinic.client.read_labels(video) if isinstance(label, Label)}
    assert {frame: label.provenance.version for frame, label in labels.items()} == {2: "anna", 5: "ben"}
    shape = labels[5].shape
    assert isinstance(shape, Box)
    assert shape.x1 == pytest.approx(40, abs=0.6)
