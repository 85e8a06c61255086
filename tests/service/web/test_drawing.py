"""Drawing in a real browser: what is drawn is what the server has, by mouse and by keys alone."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect
from pycocotools import mask as coco

from micromodels.types import FrameClass, ObjectClass, Ontology
from micromodels.v1 import video_pb2
from tests.service.web.browsing import Visit, labels_of
from tests.service.web.harness import Served


def _pixels(label: dict) -> np.ndarray:  # type: ignore[type-arg]
    mask = label["object"]["mask"]
    return coco.decode({"size": [mask["heightPx"], mask["widthPx"]], "counts": mask["counts"].encode()})


def test_a_box_goes_where_it_was_drawn(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Drawn, moved by its middle, widened at a handle; each time the server has it."""
    page = visit.open_video(video.name)
    page.keyboard.press("b")
    visit.drag((20, 30), (60, 70))
    visit.saved()
    box = labels_of(served, video.name)[0, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == pytest.approx([20, 30, 60, 70], abs=0.6)
    visit.drag((40, 50), (50, 55))
    visit.saved()
    box = labels_of(served, video.name)[0, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == pytest.approx([30, 35, 70, 75], abs=1)
    page.mouse.move(*visit.at(70, 75))
    page.mouse.down()
    page.keyboard.press(";")  # all is drawn again, as when labels come: what one holds stays in the hand
    visit.refreshed()
    page.mouse.move(*visit.at(80, 80), steps=4)
    page.keyboard.press("'")
    visit.refreshed()
    page.mouse.move(*visit.at(90, 85), steps=4)
    page.mouse.up()
    visit.saved()
    box = labels_of(served, video.name)[0, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == pytest.approx([30, 35, 90, 85], abs=1)


def test_a_polygon_is_closed_by_a_click_on_its_first_corner(
    served: Served, visit: Visit, video: video_pb2.Video
) -> None:
    """A corner that was set too much is taken back; sides that cross are not closed."""
    page = visit.open_video(video.name)
    page.keyboard.press("p")
    for point in ((20, 20), (80, 20), (80, 60), (80.5, 60.5), (90, 90)):  # quick corners close together close nothing
        page.mouse.click(*visit.at(*point))
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    page.mouse.click(*visit.at(20, 60))
    page.mouse.click(*visit.at(20, 20))
    visit.saved()
    points = labels_of(served, video.name)[0, "square 1"]["object"]["polygon"]["coordinates"]
    assert points == pytest.approx([20, 20, 80, 20, 80, 60, 20, 60], abs=0.6)
    expect(page.get_by_role("radio", name="Visible", exact=True)).to_be_checked()
    visit.go(5)
    page.keyboard.press("o")
    page.keyboard.press("p")
    for point in ((20, 20), (80, 60), (80, 20), (20, 60)):
        page.mouse.click(*visit.at(*point))
    page.keyboard.press("Enter")
    visit.message("The outline crosses itself")
    assert (5, "square 2") not in labels_of(served, video.name)


def test_a_mask_is_painted_and_erased(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """A closed stroke fills the area inside, up to its center line; the eraser removes a part."""
    page = visit.open_video(video.name)
    page.keyboard.press("m")
    for _ in range(6):
        page.keyboard.press("[")
    visit.drag((30, 20), (90, 20), (90, 70), (30, 70), (30, 21), steps=12)
    visit.saved()
    pixels = _pixels(labels_of(served, video.name)[0, "square 1"])
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    assert [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1] == pytest.approx([20, 70, 30, 90], abs=1)
    assert pixels.sum() == pytest.approx(50 * 60, rel=0.05)
    page.keyboard.press("e")
    visit.drag((60, 45), (61, 45))
    visit.saved()
    erased = _pixels(labels_of(served, video.name)[0, "square 1"])
    assert not erased[45, 60]
    assert erased.sum() < pixels.sum()
    page.keyboard.press("Control+z")
    visit.message("Undone")
    visit.saved()
    assert (_pixels(labels_of(served, video.name)[0, "square 1"]) == pixels).all()


def test_a_started_shape_stays_on_its_frame(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Other frames can be looked at, not drawn on; tools and the way out ask to finish the shape or discard it."""
    page = visit.open_video(video.name)
    page.keyboard.press("p")
    for point in ((20, 20), (80, 20), (80, 60)):
        page.mouse.click(*visit.at(*point))
    page.keyboard.press("ArrowRight")
    visit.at_frame(1)
    expect(page.locator(".hint-line")).to_contain_text("You started a shape on frame 0")
    page.mouse.click(*visit.at(20, 60))
    visit.message("You started a shape on frame 0. Go back to finish it, or press Esc to discard it.")
    page.keyboard.press("Enter")
    page.keyboard.press("b")
    visit.message("Finish the started shape first, or press Esc to discard it.")
    page.get_by_role("link", name="Test", exact=True).click()
    dialog = page.get_by_role("dialog", name="Leave without finishing the shape?")
    dialog.get_by_role("button", name="Keep drawing").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Go to frame 0").click()
    visit.at_frame(0)
    page.mouse.click(*visit.at(20, 60))
    page.keyboard.press("Enter")
    visit.saved()
    labels = labels_of(served, video.name)
    assert set(labels) == {(0, "square 1")}
    points = labels[0, "square 1"]["object"]["polygon"]["coordinates"]
    assert points == pytest.approx([20, 20, 80, 20, 80, 60, 20, 60], abs=0.6)
    page.keyboard.press("o")
    page.keyboard.press("b")
    page.mouse.click(*visit.at(90, 70))
    page.go_back()
    dialog.get_by_role("button", name="Discard and leave").click()
    page.locator("a.card-main").first.wait_for()
    assert set(labels_of(served, video.name)) == {(0, "square 1")}


def test_masks_and_polygons_with_keys_alone(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """The pen starts in the middle. A stroke to the right; a part of it erased; a polygon of four vertices."""
    page = visit.open_video(video.name)

    def pen(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    pen("m", *["["] * 6, "Enter", "Enter", *["Control+Shift+ArrowRight"] * 3, "Enter")
    visit.saved()
    painted = _pixels(labels_of(served, video.name)[0, "square 1"])
    radius = int(painted[:, 64].sum()) / 2
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    assert [rows[0], rows[-1] + 1] == pytest.approx([48 - radius, 48 + radius], abs=1)
    assert [columns[0], columns[-1] + 1] == pytest.approx([64 - radius, 94 + radius], abs=1)
    pen("e", "Enter", "Enter", "Control+ArrowRight", "Enter")
    visit.saved()
    erased = _pixels(labels_of(served, video.name)[0, "square 1"])
    assert not erased[48, 64:66].any()
    assert erased[48, 80:94].all(), "what the eraser did not come to stays"

    visit.go(5)
    pen("o", "p", "Enter", "Enter", "Control+Shift+ArrowRight", "Enter", "Control+Shift+ArrowDown", "Enter")
    pen("Control+Shift+ArrowLeft", "Enter", "Enter")
    visit.saved()
    points = labels_of(served, video.name)[5, "square 2"]["object"]["polygon"]["coordinates"]
    assert points == [64, 48, 74, 48, 74, 58, 64, 58]


def test_a_person_needs_no_mouse(served: Served, visit: Visit) -> None:
    """From the empty project to labels of every kind, copied, moved, undone and accepted, with keys alone."""
    project = served.project(Ontology((ObjectClass("square"),), (FrameClass("bright"),)))
    video = served.video(project.name)
    page = visit.open()
    page.get_by_role("heading", name="Projects").wait_for()
    link = page.locator(f"a[href='#/{project.name}']")
    for _ in range(400):
        page.keyboard.press("Tab")
        if link.evaluate("one => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    ready = page.locator(f"a[href='#/{video.name}']")
    ready.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if ready.evaluate("one => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    visit.at_frame(0)

    page.keyboard.press("b")  # a box: pen to a corner, down, to the other corner, down
    expect(page.get_by_role("button", name="Box", exact=True)).to_have_attribute("aria-pressed", "true")
    for _ in range(3):
        page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.press("Enter")
    for _ in range(2):
        page.keyboard.press("Control+Shift+ArrowRight")
        page.keyboard.press("Control+Shift+ArrowDown")
    page.keyboard.press("Enter")
    visit.saved()
    box = labels_of(served, video.name)[0, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == [34, 48, 54, 68]

    page.keyboard.press("ArrowRight")
    visit.at_frame(1)
    page.keyboard.press(",")  # copied from the frame before, moved, grown
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Control+Shift+ArrowUp")
    page.keyboard.press("+")
    visit.saved()
    box = labels_of(served, video.name)[1, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == [34, 37, 56, 59]
    page.keyboard.press("Control+z")
    visit.message("Undone: grow square 1")
    box = labels_of(served, video.name)[1, "square 1"]["object"]["box"]
    assert [box[k] for k in ("x1", "y1", "x2", "y2")] == [35, 38, 55, 58]

    visit.go(20)
    page.keyboard.press("x")
    page.keyboard.press("f")
    visit.saved()
    labels = labels_of(served, video.name)
    assert labels[20, "square 1"]["object"]["state"] == "OBJECT_STATE_ABSENT"
    assert labels[20, "bright"]["frameClass"]["present"] is True

    page.keyboard.press("1")
    page.keyboard.press("j")
    visit.at_frame(1)
    page.keyboard.press("j")
    visit.at_frame(0)
    page.keyboard.press("a")
    visit.message("Frame 0 accepted")
    assert labels_of(served, video.name)[0, "square 1"]["review"]["state"] == "REVIEW_STATE_ACCEPTED"
    page.keyboard.press("l")
    visit.message("Square 1 locked")
    page.keyboard.press("c")
    page.keyboard.type("Looks right to me")
    page.keyboard.press("Enter")
    expect(page.locator(".comments")).to_contain_text("Looks right to me")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_hidden()


def test_identity_is_repaired_from_a_frame_on(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Split and merged again, by the dialog; the timeline and the server agree; history tells."""
    from tests.service.api.harness import box

    served.client.write_labels(video.name, [box(0, "1"), box(10, "1"), box(20, "1")])
    page = visit.open_video(video.name)
    visit.go(10)
    page.keyboard.press("1")
    page.keyboard.press("w")
    page.get_by_role("button", name="Split").click()
    visit.message("Square 1 split at frame 10")
    expect(page.locator(".timeline-name")).to_have_count(3)  # two objects and the frame class
    labels = labels_of(served, video.name)
    assert {key for key, one in labels.items() if one["object"].get("box")} == {
        (0, "1"),
        (10, "square 2"),
        (20, "square 2"),
    }
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".changes").last).to_contain_text("object split")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    visit.message("Undone: square 1 split")
    labels = labels_of(served, video.name)
    assert {key for key, one in labels.items() if one["object"].get("box")} == {(0, "1"), (10, "1"), (20, "1")}


def test_a_correction_updates_the_frames_around_it(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """Trained, corrected at a suggestion with its reason: what changed is shown, and undo takes all of it back."""
    from tests.service.api.harness import box

    served.client.write_labels(video.name, [box(0), box(23)])
    page = visit.open_video(video.name)
    page.keyboard.press("t")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".flip img").first).to_be_visible()
    page.get_by_role("tab", name="Review").click()
    expect(page.locator(".suggestion").first).to_contain_text("far from any label")
    visit.idle()
    before = labels_of(served, video.name)
    assert {frame for frame, name in before if name == "1"} == set(range(24))
    page.locator(".stage").click(position={"x": 5, "y": 5})
    page.keyboard.press("n")
    visit.at_frame(1)
    page.keyboard.press("Control+Shift+ArrowDown")
    visit.message("frames updated in")
    visit.idle()
    after = labels_of(served, video.name)
    assert after[1, "1"]["provenance"]["kind"] == "PROVENANCE_KIND_HUMAN"
    assert after[0, "1"] == before[0, "1"]
    assert after[23, "1"] == before[23, "1"]
    assert after[4, "1"]["object"]["box"]["y1"] == 42
    page.keyboard.press("Shift+K")  # the scene cuts of the fake
    visit.at_frame(5)
    page.keyboard.press("Control+z")
    visit.message("Undone: move square 1")
    undone = labels_of(served, video.name)
    assert all(undone[key]["object"] == before[key]["object"] for key in before)
