"""Proto JSON over HTTP is the same API: calls, streams, errors, operations; and nobody else's page may use it."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from micromodels.v1 import video_pb2
from service.api import SERVICES
from service.web.guard import _HEADERS
from tests.service.api.harness import box, fresh_id
from tests.service.web.harness import Served

V1 = "micromodels.v1."


def _upload(served: Served, project: str) -> str:
    """Upload the clip in two chunks as the page does; the operation that reads it."""
    data = served.clip.read_bytes()
    body: dict[str, Any] = {"parent": project, "fileName": "clip.mp4", "sizeBytes": str(len(data))}
    upload = served.rpc(V1 + "VideoService/StartUpload", body)
    for start, stop in ((0, 1000), (1000, len(data))):
        chunk = data[start:stop]
        served.rpc(
            V1 + "VideoService/UploadChunk",
            {
                "name": upload["name"],
                "offset": str(start),
                "data": base64.b64encode(chunk).decode(),
                "crc32": zlib.crc32(chunk),
            },
        )
    return str(served.rpc(V1 + "VideoService/FinishUpload", {"name": upload["name"]})["name"])


def test_a_video_goes_in_and_labels_come_out(served: Served) -> None:
    """Project, upload, AutoLabel, labels, export and download, with nothing but JSON over HTTP."""
    project = served.rpc(
        V1 + "ProjectService/CreateProject",
        {"project": {"displayName": "Page", "objectClasses": [{"name": "square"}]}},
    )
    operation = _upload(served, project["name"])
    done = served.rpc("google.longrunning.Operations/WaitOperation", {"name": operation, "timeout": "60s"})
    video = done["response"]
    assert done["response"]["@type"].endswith("micromodels.v1.Video")
    assert video["frameTable"]["frameCount"] == "24"
    seed = {"track": "1", "objectClass": "square", "state": "OBJECT_STATE_VISIBLE"}
    seed["box"] = {"x1": 16, "y1": 32, "x2": 48, "y2": 64}  # type: ignore[assignment]
    lines = served.lines(
        V1 + "LabelingService/AutoLabel",
        {"parent": project["name"], "video": video["name"], "seeds": [{"object": seed}], "flipBook": True},
    )
    assert lines[-1] == {"status": {}}
    kinds = [next(iter(set(line["message"]) - {"resumeToken"})) for line in lines[:-1]]
    assert (kinds[0], kinds[-1]) == ("operation", "result")
    pictures = [line["message"]["progress"]["picture"] for line in lines if "picture" in str(line)[:400]]
    assert base64.b64decode(pictures[0]["image"])[:2] == b"\xff\xd8"
    streamed = served.lines(V1 + "LabelService/StreamLabels", {"parent": video["name"]})
    labels = [label for line in streamed[:-1] for label in line["message"]["labels"]]
    assert [int(label.get("frameIndex", 0)) for label in labels] == list(range(24))
    export = served.rpc(V1 + "LabelingService/Export", {"video": video["name"], "format": "jsonl"})
    export = served.rpc("google.longrunning.Operations/WaitOperation", {"name": export["name"], "timeout": "60s"})
    file = export["response"]["files"][0]
    status, headers, data = served.http("GET", f"/files/{file['name']}")
    assert status == 200
    assert headers["content-disposition"] == "attachment", "the page names it, after the project and the video"
    assert file["fileName"].endswith("-labels.jsonl")
    assert len(data) == int(file["sizeBytes"])
    assert len([json.loads(line) for line in data.splitlines()]) == 24


@pytest.mark.parametrize(
    ("method", "body", "status", "code", "reason"),
    [
        ("ProjectService/GetProject", {"name": "projects/none"}, 404, 5, "NOT_FOUND"),
        ("ProjectService/GetProject", {"name": "nonsense"}, 400, 3, "INVALID_INPUT"),
        ("ProjectService/GetProject", {"nonsense": 1}, 400, 3, "INVALID_INPUT"),
        ("ProjectService/GetProject", b"{", 400, 3, "INVALID_INPUT"),
        ("ProjectService/GetProject", b'{"name": "\xff"}', 400, 3, "INVALID_INPUT"),
        ("ProjectService/NoSuchMethod", {}, 501, 12, "UNIMPLEMENTED"),
        ("NoSuchService/GetProject", {}, 501, 12, "UNIMPLEMENTED"),
        ("LabelService/StreamLabels", {"parent": "projects/none/videos/none"}, 404, 5, "NOT_FOUND"),
    ],
)
def test_an_error_is_the_status_as_json(
    served: Served, method: str, body: object, status: int, code: int, reason: str
) -> None:
    """The HTTP code belongs to the status, and the ErrorInfo is there."""
    got, headers, data = served.http("POST", f"/api/{V1}{method}", body)
    error = json.loads(data)["error"]
    assert (got, error["code"]) == (status, code)
    assert error["details"][0]["reason"] == reason
    assert headers["content-type"].startswith("application/json")


def test_a_conflict_says_where_labels_stand(served: Served, video: video_pb2.Video) -> None:
    """Metadata of an ErrorInfo reach the page, which goes on from them."""
    assert served.client.write_labels(video.name, [box(3)]) == 1
    seed = {"track": "1", "objectClass": "square", "state": "OBJECT_STATE_ABSENT"}
    body = {"parent": video.name, "labels": [{"frameIndex": "3", "object": seed}], "baseRevision": "0"}
    status, _, data = served.http("POST", f"/api/{V1}LabelService/WriteLabels", body)
    info = json.loads(data)["error"]["details"][0]
    assert (status, info["reason"], info["metadata"]["current_revision"]) == (409, "REVISION_CONFLICT", "1")


def test_the_same_request_id_writes_once(served: Served, video: video_pb2.Video) -> None:
    """What the page sends again after a lost answer is not done twice."""
    seed = {"track": "1", "objectClass": "square", "state": "OBJECT_STATE_ABSENT"}
    body = {"parent": video.name, "labels": [{"frameIndex": "3", "object": seed}], "requestId": fresh_id()}
    answers = [served.rpc(V1 + "LabelService/WriteLabels", body) for _ in range(2)]
    assert answers[0] == answers[1]
    assert served.rpc(V1 + "VideoService/GetVideo", {"name": video.name})["labelRevision"] == "1"


def test_every_method_of_the_api_can_be_called(served: Served) -> None:
    """The gateway finds methods by their descriptors: none of the services is left out."""
    for service in SERVICES:
        status, _, data = served.http("POST", f"/api/{service}/NoSuchMethod", {})
        assert status == 501, (service, data)
    for method in ("ProjectService/ListProjects", "VideoService/ListVideos", "LabelingService/WatchTraining"):
        status, _, data = served.http("POST", f"/api/{V1}{method}", {})
        assert status in (200, 400), (method, data)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 403),
    ],
)
def test_only_this_page_may_call(served: Served, headers: dict[str, str], status: int) -> None:
    """A foreign name for this machine (DNS rebinding), a foreign page and a foreign form are refused."""
    assert served.http("POST", f"/api/{V1}ProjectService/ListProjects", {}, headers)[0] == status


def test_a_foreign_page_may_link_here_but_not_read_frames(served: Served, video: video_pb2.Video) -> None:
    """Opening the page from elsewhere is fine; pictures and files are for the page alone."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert served.http("GET", "/", headers=foreign)[0] in (200, 503)
    assert served.http("GET", f"/frames/{video.name}/0.jpg", headers=foreign)[0] == 403
    assert served.http("GET", "/files/projects/x/operations/y/files/z", headers=foreign)[0] == 403


@pytest.mark.parametrize("path", ["/", "/nothing", "/frames/x/0.jpg", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_every_answer_carries_the_security_headers(served: Served, path: str) -> None:
    """Also those that say no; and no path reaches a file that was not built."""
    status, headers, data = served.http("GET", path)
    for name, value in _HEADERS.items():
        assert headers.get(name.lower()) == value, (name, status)
    assert "unsafe" not in headers["content-security-policy"]
    assert b"root:" not in data


def test_a_session_is_a_cookie_that_scripts_cannot_read(served: Served) -> None:
    """The token goes on to the API as the credentials of each call."""
    assert served.http("POST", "/sign-in", {"token": "abc"})[0] == 401
    _, bearer = served.store.access.issue("reader")
    status, headers, _ = served.http("POST", "/sign-in", {"token": str(bearer)})
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    status, headers, _ = served.http("DELETE", "/sign-in", headers={"Cookie": cookie.partition(";")[0]})
    assert status == 200
    assert 'micromodels_token=""' in headers["set-cookie"]
    for bad in ({}, {"token": ""}, {"token": 3}, {"token": "a b"}, {"token": "a\nb"}, [], {"token": "x" * 5000}):
        assert served.http("POST", "/sign-in", bad)[0] == 400, bad


def test_frames_of_a_deleted_video_are_forgotten(served: Served) -> None:
    """Not only refused: the pictures in memory go with the video."""
    video = served.video()
    assert served.http("GET", f"/frames/{video.name}/0.jpg")[0] == 200
    _, project_id, _, video_id = video.name.split("/")
    heard: list[tuple[str, str]] = []
    stop = served.store.erasure.listen(lambda *gone: heard.append(gone))
    served.client.delete_video(video.name)
    stop()
    assert heard == [(project_id, video_id)]
    assert served.http("GET", f"/frames/{video.name}/0.jpg")[0] == 404


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    """Before it is parsed."""
    status, _, _ = served.http("POST", f"/api/{V1}ProjectService/ListProjects", b" " * (25 << 20))
    assert status == 413
