"""A reload, a lost connection, a stopped server, somebody else's edit: nothing that a person did is lost."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from micromodels.v1 import video_pb2
from tests.service.api.harness import box
from tests.service.web.browsing import Visit, labels_of, visiting
from tests.service.web.harness import Served


def _draw_box(visit: Visit, frame: int, x: float) -> None:
    visit.go(frame)
    visit.page.keyboard.press("b")
    visit.drag((x, 20), (x + 30, 50))


def test_edits_without_a_connection_are_sent_later(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """One goes on drawing; a banner says so; all is sent in order when the connection is back."""
    page = visit.open_video(video.name)
    _draw_box(visit, 0, 20)
    visit.saved()
    for frame in (1, 2, 3):
        visit.go(frame)  # so that the frames are there
    visit.expected = ("net::ERR", "fetch")
    visit.context.set_offline(True)
    for frame in (1, 2):
        visit.go(frame)
        page.keyboard.press(",")
    expect(page.get_by_text("2 edits stored in this browser")).to_be_visible()
    visit.go(3)
    page.keyboard.press(",")
    page.keyboard.press("Control+z")
    assert {frame for frame, _ in labels_of(served, video.name)} == {0}
    visit.context.set_offline(False)
    visit.saved()
    expect(page.locator(".banner")).to_be_hidden()
    assert {frame for frame, _ in labels_of(served, video.name)} == {0, 1, 2}


def test_edits_survive_a_reload_before_they_are_sent(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """They lie on this machine's disk; the page comes back on the frame where it was."""
    refusing: list[bool] = []
    visit.page.route(
        "**/api/micromodels.v1.CorrectionService/CorrectLabels",
        lambda route: route.abort() if refusing else route.continue_(),
    )
    page = visit.open_video(video.name)
    _draw_box(visit, 4, 20)
    visit.saved()
    visit.expected = ("net::ERR", "fetch", "Failed")
    refusing.append(True)
    page.keyboard.press("Control+Shift+ArrowRight")
    expect(page.locator(".saved")).to_have_attribute("data-stored", "1")
    page.reload()
    visit.at_frame(4)
    expect(page.locator(".state-tag .by").first).to_have_text("by hand")
    before = labels_of(served, video.name)[4, "square 1"]["object"]["box"]["x1"]
    page.unroute_all()
    visit.saved()
    after = labels_of(served, video.name)[4, "square 1"]["object"]["box"]["x1"]
    assert after - before == 10


def test_an_answer_that_is_lost_writes_nothing_twice(served: Served, visit: Visit, video: video_pb2.Video) -> None:
    """The server has the edit, the page does not know: it is sent again under the same request id."""
    page = visit.open_video(video.name)
    visit.expected = ("net::ERR", "fetch", "Failed")
    lost: list[str] = []

    def lose(route) -> None:  # type: ignore[no-untyped-def]
        if lost:
            route.continue_()
            return
        lost.append(route.fetch().text())
        route.abort()

    page.route("**/api/micromodels.v1.CorrectionService/CorrectLabels", lose)
    _draw_box(visit, 0, 20)
    visit.saved()
    assert "acknowledged" in lost[0]
    assert served.rpc("micromodels.v1.VideoService/GetVideo", {"name": video.name})["labelRevision"] == "1"


def test_somebody_elses_edit_is_not_buried(
    served: Served, visit: Visit, browser: Browser, video: video_pb2.Video, built: Path
) -> None:
    """Two people draw on one frame: the second sees a message and the stored label, and may overwrite it."""
    visit.expected = ("409",)
    page = visit.open_video(video.name)
    page.keyboard.press("b")
    with visiting(served, browser) as other:
        other.open_video(video.name)
        _draw_box(other, 0, 20)
        other.saved()
    visit.drag((60, 20), (90, 50))
    visit.message("Another person changed frame 0")
    assert round(labels_of(served, video.name)[0, "square 1"]["object"]["box"]["x1"]) == 20
    page.get_by_role("button", name="Use mine").click()
    visit.saved()
    assert round(labels_of(served, video.name)[0, "square 1"]["object"]["box"]["x1"]) == 60


def test_a_server_that_restarts_is_found_again(tmp_path: Path, browser: Browser, tiny_clip: Path, built: Path) -> None:
    """Edits wait, training is found again, the flip book goes on: a restart is a pause."""
    own = Served(tmp_path, tiny_clip / "video.mp4")
    try:
        video = own.video()
        own.client.write_labels(video.name, [box(0, "slow")])
        with visiting(own, browser) as visit:
            visit.expected = ("net::ERR", "fetch", "503", "Failed")
            page = visit.open_video(video.name)
            page.keyboard.press("t")
            page.get_by_role("button", name="Train", exact=True).click()
            expect(page.locator(".flip img").first).to_be_visible()
            visit.go(1)
            visit.go(0)
            ports = own.port, own.web_port
            own.stop()
            page.keyboard.press("1")
            page.keyboard.press("Control+ArrowRight")
            expect(page.get_by_text("1 edit stored in this browser")).to_be_visible()
            own.start(ports[0])
            assert own.web_port == ports[1]
            visit.saved()
            expect(page.locator(".banner")).to_be_hidden()
            expect(page.get_by_role("button", name="Good enough, stop now")).to_be_enabled()
            page.get_by_role("button", name="Cancel", exact=True).click()
            expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()
            assert labels_of(own, video.name)[0, "slow"]["object"]["box"]["x1"] == 17
    finally:
        own.stop()


def test_an_upload_that_is_cut_goes_on_where_it_stopped(
    served: Served, visit: Visit, tmp_path: Path, tiny_clip: Path
) -> None:
    """After a reload the same file is chosen again: only the rest is sent."""
    clip = tmp_path / "long.mp4"
    data = (tiny_clip / "video.mp4").read_bytes()
    clip.write_bytes(data + bytes(5 << 20))  # bytes after the end of an MP4 are passed over
    project = served.project()
    visit.expected = ("net::ERR", "fetch", "Failed")
    page = visit.open(project.name)
    sent: list[str] = []

    def cut(route) -> None:  # type: ignore[no-untyped-def]
        sent.append(route.request.url)
        if len(sent) != 2:  # the second chunk of three hangs
            route.continue_()

    page.route("**/*.VideoService/UploadChunk", cut)
    page.set_input_files("input[type=file]", clip)
    while len(sent) < 2:
        page.wait_for_timeout(50)
    page.reload()
    page.wait_for_selector(".drop")
    page.set_input_files("input[type=file]", clip)
    expect(page.locator("a.card-main.video, .card .error-text")).to_be_visible(timeout=60_000)
    assert len(sent) == 4, "the first chunk was sent again"
    expect(page.locator("a.card-main.video")).to_contain_text("24 frames")
