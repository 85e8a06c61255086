"""Frame i is frame i: decoded by the child, not by the browser, and cached under its content."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from micromodels.v1 import video_pb2
from micromodels.video import open_video
from tests.service.web.harness import Served


def _image(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_each_frame_is_the_one_asked_for(served: Served, video: video_pb2.Video, kind: str) -> None:
    """In order, backwards and here and there, as the decode child gives them."""
    with open_video(served.clip) as opened:
        wanted = {index: image.astype(int) for index, image in opened.frames()}
    for index in [*range(24), 23, 3, 22, 4, 0, 12]:
        status, headers, data = served.http("GET", f"/frames/{video.name}/{index}.{kind}")
        assert (status, headers["content-type"]) == (200, {"jpg": "image/jpeg", "webp": "image/webp"}[kind])
        mine = np.abs(_image(data) - wanted[index]).mean()
        others = [np.abs(_image(data) - wanted[other]).mean() for other in (index - 1, index + 1) if other in wanted]
        assert mine < 4, (index, mine)
        assert all(mine < other for other in others), (index, mine, others)


def test_many_at_once_are_all_right(served: Served, video: video_pb2.Video) -> None:
    """A page that fetches ahead asks for several at a time, and jumps meanwhile."""
    with open_video(served.clip) as opened:
        wanted = {index: image.astype(int) for index, image in opened.frames()}
    order = [0, 1, 2, 3, 20, 4, 5, 21, 6, 7, 1, 22, 8, 9, 15, 10, 11, 2] * 2

    def fetch(index: int) -> tuple[int, bytes]:
        status, _, data = served.http("GET", f"/frames/{video.name}/{index}.jpg?width={64 + index % 2}")
        assert status == 200
        return index, data

    with ThreadPoolExecutor(8) as pool:
        for index, data in pool.map(fetch, order):
            small = np.asarray(
                Image.fromarray(wanted[index].astype(np.uint8)).resize(_image(data).shape[1::-1], Image.Resampling.BOX)
            )
            assert np.abs(_image(data) - small).mean() < 8, index


def test_a_smaller_picture_on_demand(served: Served, video: video_pb2.Video) -> None:
    """The shape is kept; nothing is ever made larger."""
    for width, size in ((64, (48, 64)), (0, (96, 128)), (500, (96, 128))):
        _, _, data = served.http("GET", f"/frames/{video.name}/5.jpg?width={width}")
        assert _image(data).shape[:2] == size


def test_a_frame_is_not_sent_twice(served: Served, video: video_pb2.Video) -> None:
    """Its ETag names the content; the browser may keep it, nobody else."""
    path = f"/frames/{video.name}/7.jpg"
    _, headers, _ = served.http("GET", path)
    assert headers["cache-control"].startswith("private")
    status, again, data = served.http("GET", path, headers={"If-None-Match": headers["etag"]})
    assert (status, data, again["etag"]) == (304, b"", headers["etag"])
    assert served.http("GET", f"/frames/{video.name}/8.jpg")[1]["etag"] != headers["etag"]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("24.jpg", 400, "OUT_OF_RANGE"),
        ("999999999999.jpg", 400, "OUT_OF_RANGE"),
        ("1.png", 400, "INVALID_INPUT"),
        ("1.jpg?width=-1", 400, "INVALID_INPUT"),
        ("1.jpg?width=99999", 400, "INVALID_INPUT"),
    ],
)
def test_what_is_not_there_is_an_error_in_words(
    served: Served, video: video_pb2.Video, path: str, status: int, reason: str
) -> None:
    got, headers, data = served.http("GET", f"/frames/{video.name}/{path}")
    assert (got, json.loads(data)["error"]["details"][0]["reason"]) == (status, reason)
    assert headers["cache-control"] == "no-store"


def test_a_deleted_video_shows_nothing(served: Served, video: video_pb2.Video) -> None:
    """Not even what is still in memory, once the API says that it has gone."""
    path = f"/frames/{video.name}/3.jpg"
    assert served.http("GET", path)[0] == 200
    other = served.video(video.name.rpartition("/videos/")[0])
    served.stubs.videos.DeleteVideo(video_pb2.DeleteVideoRequest(name=other.name))
    status, _, data = served.http("GET", f"/frames/{other.name}/3.jpg")
    assert (status, json.loads(data)["error"]["details"][0]["reason"]) == (404, "NOT_FOUND")
