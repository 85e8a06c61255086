"""Signing in to the page: by token, into a cookie, and not too many wrong ones at a time."""

from __future__ import annotations

import http.cookies
import json
from pathlib import Path

import pytest

from service.access.login import LoginLimiter
from service.domain.access import Role
from service.domain.errors import ResourceExhausted
from tests.service.web.harness import Served


def test_failures_are_bounded_by_address_and_in_all() -> None:
    """One address that guesses is stopped; many together are; after the window all may try again."""
    now = [0.0]
    limiter = LoginLimiter(per_address=3, in_all=5, window_seconds=60, clock=lambda: now[0])
    for _ in range(3):
        limiter.check("a")
        limiter.failed("a")
    with pytest.raises(ResourceExhausted) as raised:
        limiter.check("a")
    assert raised.value.retry_after_seconds == 60
    limiter.check("b")
    for address in "bc":
        limiter.failed(address)
    with pytest.raises(ResourceExhausted):
        limiter.check("d")
    now[0] = 61.0
    limiter.check("a")


def test_the_page_signs_in_by_token(tmp_path: Path, tiny_clip: Path) -> None:
    """The cookie is what calls are made with; a viewer's does not write; wrong tokens are soon refused unheard."""
    served = Served(tmp_path, tiny_clip / "video.mp4")
    try:
        project = served.project().name
        _, bearer = served.store.access.issue("looker")
        served.store.access.set_role(project.removeprefix("projects/"), "looker", Role.VIEWER)
        status, headers, _ = served.http("POST", "/sign-in", {"token": str(bearer)})
        assert status == 200
        cookie = http.cookies.SimpleCookie(headers["set-cookie"])["micromodels_token"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert 0 < int(cookie["max-age"]) <= 90 * 86400
        mine = {"Cookie": f"micromodels_token={cookie.value}"}
        api = "/api/micromodels.v1"
        status, _, body = served.http("POST", f"{api}.AccessService/GetCaller", {}, mine)
        assert (status, json.loads(body)["user"]) == (200, "looker")
        change = {"project": {"name": project, "displayName": "mine"}, "updateMask": "displayName"}
        assert served.http("POST", f"{api}.ProjectService/UpdateProject", change, mine)[0] == 403
        foreign = {**mine, "Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        assert served.http("POST", f"{api}.ProjectService/ListProjects", {}, foreign)[0] == 403
        seen = [served.http("POST", "/sign-in", {"token": f"mm_{n}"})[0] for n in range(12)]
        assert seen == [401] * 10 + [429] * 2
        assert served.http("POST", "/sign-in", {"token": str(bearer)})[0] == 429
    finally:
        served.stop()
