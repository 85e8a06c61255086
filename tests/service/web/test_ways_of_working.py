"""What one does all day: going where one wants to look, how labels look, repairing, accepting what is sure."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from micromodels.types import Label, Polygon, State
from micromodels.v1 import video_pb2
from tests.service.api.harness import box
from tests.service.web.browsing import Visit, labels_of
from tests.service.web.harness import Served


def test_a_click_in_the_timeline_goes_there_and_playing_keeps_the_speed(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """The object of the row is selected; played at several speeds every frame on the screen is one of the video."""
    served.client.write_labels(video.name, [box(0, "1"), box(12, "2")])
    page = visit.open_video(video.name)
    visit.idle()
    strip = page.locator(".timeline-strips").bounding_box()
    name = page.locator(".timeline-name").nth(1).bounding_box()
    assert strip
    assert name
    page.mouse.click(strip["x"] + strip["width"] * 15.5 / 24, name["y"] + name["height"] / 2)
    visit.at_frame(15)
    expect(page.locator(".timeline-name.selected")).to_contain_text("square 2")
    page.get_by_label("Speed").select_option("4")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    visit.at_frame(23)  # it ends there
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    for _ in range(8):
        page.keyboard.press("<")
    expect(page.get_by_label("Speed")).to_have_value("0.1")
    assert page.evaluate(_PLAY_AND_PAUSE) == ["Pause", "Play"]  # from the end it begins again
    assert int(page.locator("#frame-number").input_value()) < 23


_PLAY_AND_PAUSE = """async () => {
    const labels = [];
    for (const _ of [1, 2]) {
        const before = document.querySelector('.play').ariaLabel;
        dispatchEvent(new KeyboardEvent('keydown', { key: ' ' }));
        while (document.querySelector('.play').ariaLabel === before) await new Promise(requestAnimationFrame);
        labels.push(document.querySelector('.play').ariaLabel);
    }
    return labels;
}"""
"""In one go, so that no machine is so slow that the video ends in between."""


def _color(visit: Visit, x: float, y: float) -> np.ndarray:
    """The color of the screen at a pixel of the frame, RGB."""
    visit.refreshed()
    picture = cv2.imdecode(np.frombuffer(visit.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    at_x, at_y = visit.at(x, y)
    return picture[round(at_y), round(at_x), ::-1].astype(int)  # type: ignore[no-any-return]


def test_labels_have_the_color_of_their_class_and_can_be_faint(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """The class "letter" is pure red: filled, as an outline only, fainter, and hidden."""
    served.client.write_labels(video.name, [box(0, "1", "letter", x1=80)])
    visit.open_video(video.name)
    page = visit.page
    visit.idle()
    inside, edge = (96, 48), (80, 48)
    filled = _color(visit, *inside)
    page.keyboard.press("\\")
    bare = _color(visit, *inside)
    assert filled[0] - bare[0] > 20, "red is laid over the frame"
    red = _color(visit, *edge)
    assert red[0] > 150
    assert red[1] < 110
    page.keyboard.press("\\")
    for _ in range(10):
        page.keyboard.press(";")
    assert np.abs(_color(visit, *inside) - bare).max() < np.abs(filled - bare).max() / 2
    for _ in range(10):
        page.keyboard.press("'")
    assert np.abs(_color(visit, *inside) - bare).max() > np.abs(filled - bare).max()
    page.get_by_role("button", name="Hide letter 1").click()
    assert np.abs(_color(visit, *inside) - bare).max() < 12
    assert np.abs(_color(visit, *edge) - red).max() > 40


def _length(points: list[float]) -> float:
    ring = np.array(points).reshape(-1, 2)
    return float(np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1).sum())


def test_a_shape_is_smoothed_and_copied_from_the_next_frame(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """A jagged polygon comes from the next frame by one key, is smooth by another; undone and done again."""
    jagged = [(20 + 5 * i, 30 + (8 if i % 2 else 0)) for i in range(12)] + [(75, 80), (20, 80)]
    polygon = Polygon(tuple((float(x), float(y)) for x, y in jagged))
    served.client.write_labels(video.name, [Label(5, "1", "square", State.VISIBLE, polygon)])
    page = visit.open_video(video.name)
    visit.go(4)
    page.keyboard.press("1")
    page.keyboard.press(".")
    visit.saved()
    copied = labels_of(served, video.name)[4, "1"]["object"]["polygon"]["coordinates"]
    assert copied == pytest.approx([value for point in jagged for value in point])
    page.keyboard.press("s")
    visit.saved()
    smooth = labels_of(served, video.name)[4, "1"]["object"]["polygon"]["coordinates"]
    assert _length(smooth) < 0.9 * _length(copied)
    page.keyboard.press("Control+z")
    visit.message("Undone: smooth square 1")
    assert labels_of(served, video.name)[4, "1"]["object"]["polygon"]["coordinates"] == pytest.approx(copied)
    page.keyboard.press("Control+Shift+Z")
    visit.message("Redone: smooth square 1")
    visit.saved()
    assert labels_of(served, video.name)[4, "1"]["object"]["polygon"]["coordinates"] == pytest.approx(smooth)


def test_everything_that_is_sure_is_accepted_at_once(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Before, the page says what share is expected to be wrong; undo takes all of it back."""
    for _ in served.client.auto_label(video.name, [box(0), box(23)]):
        pass
    page = visit.open_video(video.name)
    page.get_by_role("tab", name="Review").click()
    page.get_by_label("Confidence at least").focus()
    page.keyboard.press("End")
    expect(page.get_by_text("No unreviewed label has this confidence.")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.get_by_text("22 labels. About 10 % are expected to be wrong.")).to_be_visible()
    page.get_by_role("button", name="Accept 22 labels").click()
    visit.message("All labels with confidence 50 % or more accepted")
    states = [one.get("review", {}).get("state") for one in labels_of(served, video.name).values()]
    assert states.count("REVIEW_STATE_ACCEPTED") == 22
    visit.idle()
    page.locator(".stage").click(position={"x": 5, "y": 5})
    page.keyboard.press("Control+z")
    visit.message("Undone: all labels with confidence 50 % or more accepted")
    states = [one.get("review", {}).get("state") for one in labels_of(served, video.name).values()]
    assert states.count("REVIEW_STATE_ACCEPTED") == 0


def test_tracks_are_swapped_merged_and_deleted_from_a_frame_on(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """Each by its key and a button; the labels of before stay where they were."""
    served.client.write_labels(video.name, [box(0, "1"), box(10, "1", x1=20), box(0, "2", x1=60), box(12, "2", x1=70)])
    page = visit.open_video(video.name)

    def repair(words: str, said: str) -> set[tuple[int, str, float]]:
        page.keyboard.press("1")
        page.keyboard.press("w")
        page.get_by_role("button", name=words).click()
        visit.message(said)
        visit.idle()
        labels = labels_of(served, video.name)
        return {(*key, one["object"]["box"]["x1"]) for key, one in labels.items() if one["object"].get("box")}

    visit.go(5)
    swapped = repair("Swap with square 2", "1 and 2 swapped from frame 5")
    assert swapped == {(0, "1", 16), (0, "2", 60), (10, "2", 20), (12, "1", 70)}
    visit.go(11)
    assert repair("Delete from this frame on", "Square 1 deleted from frame 11") == swapped - {(12, "1", 70)}
    visit.go(0)
    page.keyboard.press("1")
    page.keyboard.press("Delete")
    visit.saved()
    page.keyboard.press("Control+z")
    visit.saved()
    page.keyboard.press("2")
    page.keyboard.press("Delete")  # people drew both on frame 0: one of the two has to go first
    visit.saved()
    assert repair("Merge square 2 into it", "Square 2 merged into square 1") == {(0, "1", 16), (10, "1", 20)}


def test_classes_that_exclude_each_other_are_chosen_once(served: Served, visit: Visit) -> None:
    """Chosen in the dialog of classes; saved again without a change it stays, and a removed class goes from it."""
    project = served.project().name
    page = visit.open(project)
    for chosen in (True, False):
        page.get_by_role("button", name="Classes").click()
        never = page.locator(".never").first
        never.locator("summary").click()
        if chosen:
            never.get_by_role("button", name="bright").click()
        expect(never.locator("summary")).to_have_text("never with bright")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        classes = served.rpc("micromodels.v1.ProjectService/GetProject", {"name": project})["objectClasses"]
        assert [one.get("excludes", []) for one in classes] == [["bright"], []]
    page.get_by_role("button", name="Classes").click()
    page.get_by_role("button", name="Add a class").click()
    page.get_by_label("Name of the class").last.fill("dark")
    page.get_by_label("Kind").last.select_option("frame")
    never = page.locator(".never").last
    never.locator("summary").click()
    expect(never.get_by_role("button")).to_have_text(["bright"])  # of whole frames only those
    never.get_by_role("button", name="bright").click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    frames = served.rpc("micromodels.v1.ProjectService/GetProject", {"name": project})["frameClasses"]
    assert [(one["name"], one.get("excludes", [])) for one in frames] == [("bright", []), ("dark", ["bright"])]
    page.get_by_role("button", name="Classes").click()
    page.get_by_role("button", name="Remove dark").click()
    page.get_by_role("button", name="Remove bright").click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert "frameClasses" not in served.rpc("micromodels.v1.ProjectService/GetProject", {"name": project})
