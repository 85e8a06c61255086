"""Everyday work: moving around, the look of labels, fixing identities, accepting, small comforts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from micromodels.types import Label, Polygon, State
from micromodels.v1 import video_pb2
from tests.service.api.harness import box, fresh_id
from tests.service.web.browsing import Visit, labels_of, visiting
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


def test_there_is_no_all_clear_before_suggestions_are_there(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """While they are computed the page says so; only when all is reviewed it says that there are no more."""
    for _ in served.client.auto_label(video.name, [box(0), box(23)]):
        pass
    page, call = visit.page, "**/micromodels.v1.CorrectionService/SuggestFrames"
    page.route(call, lambda route: None)
    with page.expect_request(call):
        visit.open_video(video.name)
        page.keyboard.press("n")
        visit.message("Suggestions are still being computed.")
    page.keyboard.press("n")
    page.unroute_all()  # lets it go on
    visit.idle()
    page.keyboard.press("n")
    visit.at_frame(1)
    log = page.locator(".message-log")
    expect(log).not_to_contain_text("No more frames")
    served.rpc(
        "micromodels.v1.ReviewService/AcceptLabels",
        {"parent": video.name, "minConfidence": 0.5, "requestId": fresh_id()},
    )
    page.reload()
    visit.at_frame(1)
    visit.idle()
    page.keyboard.press("n")
    visit.message("No more frames to check.")


def test_a_new_object_is_not_reported_as_a_repair(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Its labels on the other frames are new, and the page asks to check them."""
    for _ in served.client.auto_label(video.name, [box(0), box(23)]):
        pass
    page = visit.open_video(video.name)
    visit.idle()
    page.keyboard.press("b")
    visit.drag((70, 10), (100, 40))
    visit.message("New labels on 23 frames in")
    visit.message("Check the new labels.")
    expect(page.locator(".message-log")).not_to_contain_text("updated")


def test_keys_act_on_the_video_after_a_slider_or_list_was_used(visit: Visit, video: video_pb2.Video) -> None:
    """With the mouse; who came to it by keys keeps it."""
    page = visit.open_video(video.name)
    slider = page.get_by_label("Label opacity")
    around = slider.bounding_box()
    assert around
    page.mouse.click(around["x"] + around["width"] / 2, around["y"] + 4)
    before = slider.input_value()
    page.keyboard.press("ArrowRight")
    visit.at_frame(1)
    assert slider.input_value() == before
    speed = page.get_by_label("Speed")
    speed.click()
    speed.select_option("2")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    visit.at_frame(2)
    slider.focus()
    page.keyboard.press("ArrowDown")
    assert slider.input_value() != before
    visit.at_frame(2)


def test_the_selected_object_is_in_view(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Of twenty: in the list and in the timeline, by keys as by a click on the frame."""
    served.client.write_labels(video.name, [box(0, str(track), x1=track * 4.0) for track in range(1, 21)])
    page = visit.open_video(video.name)
    visit.idle()
    for place in (page.locator(".object").last, page.locator(".timeline-name").nth(19)):
        expect(place).not_to_be_in_viewport()
    page.keyboard.press("1")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # past the frame class, to the last object
    expect(page.locator(".object.on")).to_contain_text("square 20")
    for place in (page.locator(".object.on"), page.locator(".timeline-name.selected")):
        expect(place).to_be_in_viewport(ratio=0.9)
    page.keyboard.press("1")
    expect(page.locator(".object.on")).to_be_in_viewport(ratio=0.9)


def test_two_fingers_zoom_the_frame_and_not_the_page(
    served: Served, browser: Browser, video: video_pb2.Video, built: Path
) -> None:
    """On a touch screen and on a touchpad; a pinch draws nothing."""
    with visiting(served, browser, has_touch=True) as visit:
        page = visit.open_video(video.name)
        page.keyboard.press("p")
        session = visit.context.new_cdp_session(page)
        x, y = visit.at(64, 48)

        def touch(kind: str, *xs: float) -> None:
            points = [{"x": x + dx, "y": y, "id": index} for index, dx in enumerate(xs)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        def zoom() -> int:
            return int(page.locator(".tool.zoom").inner_text().rstrip("%"))

        before = zoom()
        touch("touchStart", -40)
        touch("touchStart", -40, 40)
        for spread in (50, 60, 70, 80):
            touch("touchMove", -spread, spread)
        touch("touchEnd")
        visit.refreshed()
        assert zoom() == pytest.approx(2 * before, rel=0.05)
        assert page.evaluate("visualViewport.scale") == 1
        expect(page.locator(".hint-line")).to_have_text("Click the corners one after the other")
        wheel = "() => !dispatchEvent(new WheelEvent('wheel', {ctrlKey: true, deltaY: -50, cancelable: true}))"
        assert page.evaluate(wheel), "the page itself would be zoomed"
    assert labels_of(served, video.name) == {}


def test_frame_numbers_say_where_they_begin(visit: Visit, video: video_pb2.Video) -> None:
    """24 frames are frames 0 to 23, as in exported files."""
    page = visit.open_video(video.name)
    expect(page.locator(".frame-number")).to_contain_text("of 0–23")
    expect(page.get_by_title("24 frames, numbered from 0")).to_be_visible()
    page.keyboard.press("End")
    visit.at_frame(23)
    expect(page.get_by_label("Frame number, 0 to 23")).to_have_value("23")


def test_deleting_a_video_names_what_goes_with_it(served: Served, visit: Visit) -> None:
    """Its labels and the micro-models trained on it; cancel keeps all."""
    project = served.project().name
    video = served.video(project).name
    page = visit.open(project)
    page.get_by_role("button", name="Delete video.mp4").click()
    dialog = page.get_by_role("dialog", name="Delete video.mp4?")
    expect(dialog).to_contain_text("also deletes its labels and every micro-model trained on it")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Delete video.mp4").click()
    dialog.get_by_role("button", name="Delete").click()
    visit.message("Deleted video.mp4.")
    assert video not in [one.name for one in served.client.list_videos(project)]


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
