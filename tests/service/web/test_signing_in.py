"""Tokens over TLS: signing in and out, what each role may do, and pages of others that may do nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from service.domain.access import Role
from tests.service.api.harness import box
from tests.service.web.browsing import TIMEOUT_MS, Visit, visiting
from tests.service.web.harness import Served

CALLER = "/api/micromodels.v1.AccessService/GetCaller"


@dataclass(frozen=True)
class Clinic:
    """A server that wants tokens, a video on it, and the tokens of those who work there."""

    served: Served
    project: str
    video: str
    tokens: dict[str, str]

    def token(self, name: str, role: Role | None) -> str:
        token = str(self.served.store.access.issue(name, is_admin=role is None)[1])
        if role is not None:
            self.served.store.access.set_role(self.project.removeprefix("projects/"), name, role)
        return token


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Clinic]:
    """Encrypted by the authority that the server made itself, as it is on every address but loopback."""
    folder = tmp_path_factory.mktemp("clinic")
    served = Served(folder, tiny_clip / "video.mp4", auth="required", tls="on")
    try:
        video = served.video().name
        made = Clinic(served, video.partition("/videos/")[0], video, {})
        for name, role in (("anna", Role.VIEWER), ("ben", Role.ANNOTATOR), ("chief", None)):
            made.tokens[name] = made.token(name, role)
        served.client.write_labels(video, [box(0)])
        yield made
    finally:
        served.stop()


@pytest.fixture
def visit(clinic: Clinic, browser: Browser, built: Path) -> Iterator[Visit]:
    """A person before the page, not signed in; the browser does not know the server's authority."""
    with visiting(clinic.served, browser, ignore_https_errors=True) as made:
        made.expected = ("401:",)
        yield made


def _sign_in(visit: Visit, token: str) -> Page:
    page = visit.page
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    return page


def _cookies(visit: Visit) -> list[Any]:
    return list(visit.context.cookies())


def test_signing_in_and_out(clinic: Clinic, visit: Visit) -> None:
    """A wrong token is refused; a right one goes into a cookie that no script reads and no plain line carries."""
    page = visit.open()
    page.get_by_role("heading", name="Sign in").wait_for()
    expect(page.get_by_label("Token")).to_be_focused()
    _sign_in(visit, "mm_wrong")
    expect(page.get_by_text("This token is not valid")).to_be_visible()
    assert _cookies(visit) == []
    _sign_in(visit, clinic.tokens["chief"])
    page.get_by_role("heading", name="Projects").wait_for()
    (cookie,) = _cookies(visit)
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert page.evaluate("document.cookie") == ""
    assert clinic.served.http("GET", f"/frames/{clinic.video}/0.jpg")[0] == 401
    page.get_by_role("button", name="Sign out chief").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert _cookies(visit) == []
    page.reload()
    page.get_by_role("heading", name="Sign in").wait_for()
    expect(page.get_by_role("heading", name="Projects")).to_have_count(0)


def test_a_viewer_cannot_edit_and_sees_why(clinic: Clinic, visit: Visit) -> None:
    """Controls that write are disabled, with the reason; keys say it too; the server refuses what gets past them."""
    visit.expected = ("401:", "403:")
    visit.open(clinic.video)
    page = _sign_in(visit, clinic.tokens["anna"])
    visit.at_frame(0)
    expect(page.get_by_role("note")).to_contain_text("Your role in this project is viewer")
    tool = page.get_by_role("button", name="Box", exact=True)
    expect(tool).to_be_disabled()
    expect(tool).to_have_attribute(
        "title", "Your role in this project is viewer. Drawing and training need the role annotator."
    )
    page.keyboard.press("b")
    visit.message("Your role in this project is viewer")
    page.keyboard.press("1")
    expect(page.get_by_role("radio", name="Absent", exact=True)).to_be_disabled()
    page.keyboard.press("x")
    page.get_by_role("tab", name="Train").click()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    page.get_by_role("tab", name="Review").click()
    expect(page.get_by_role("button", name="Accept frame")).to_be_disabled()
    expect(page.get_by_label("Comment on this frame")).to_be_disabled()
    status = page.evaluate(
        """async (parent) => (await fetch('/api/micromodels.v1.LabelService/WriteLabels', {
            method: 'POST', headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify({ parent, labels: [{ frameIndex: '5', frameClass: { frameClass: 'bright' } }] }),
        })).status""",
        clinic.video,
    )
    assert status == 403
    assert 5 not in {label.frame for label in clinic.served.client.read_labels(clinic.video)}


def test_a_session_that_ends_loses_nothing(clinic: Clinic, visit: Visit) -> None:
    """The token is withdrawn while somebody draws: the page asks for another, and then sends what was drawn."""
    served = clinic.served
    token, bearer = served.store.access.issue("ben")
    visit.open(clinic.video)
    page = _sign_in(visit, str(bearer))
    visit.at_frame(0)
    visit.go(3)
    expect(page.locator(".timeline-strips .overlay")).to_have_attribute("data-ahead", "24")
    visit.idle()  # nothing else is asked for: drawing finds out
    served.store.access.revoke(token.token_id)
    session = {"Cookie": f"micromodels_token={bearer}"}
    while served.http("POST", CALLER, {}, session)[0] == 200:  # withdrawn tokens are believed for a second
        time.sleep(0.1)
    page.keyboard.press("b")
    visit.drag((20, 30), (60, 70))
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog).to_contain_text("stored in this browser")
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    _sign_in(visit, clinic.tokens["ben"])
    expect(dialog).to_be_hidden()
    expect(page.locator(".saved")).to_have_text("Saved")
    expect(page.locator(".timeline-name")).to_have_count(3)
    assert {label.frame for label in served.client.read_labels(clinic.video)} == {0, 3}
    session = {"Cookie": f"micromodels_token={clinic.tokens['ben']}"}
    changes = served.rpc("micromodels.v1.HistoryService/ListChanges", {"parent": clinic.video}, **session)["changes"]
    assert [change["author"] for change in changes] == ["ben", "root"]


def test_a_foreign_page_can_do_nothing(clinic: Clinic, visit: Visit) -> None:
    """Its requests carry no session and are refused; a form of it reaches nothing."""
    visit.expected = ("401:", "403:", "evil.example", "net::ERR", "blocked", "CORS")
    visit.open()
    page = _sign_in(visit, clinic.tokens["chief"])
    page.get_by_role("heading", name="Projects").wait_for()
    before = len(list(clinic.served.client.list_projects()))
    target = f"{clinic.served.url}api/micromodels.v1.ProjectService/CreateProject"

    def evil(route: Route) -> None:
        form = f"<form method=post enctype=text/plain action='{target}'><input name='{{\"project\":{{}}}}'></form>"
        route.fulfill(content_type="text/html", body=f"<title>evil</title>{form}")

    visit.context.route("https://evil.example/**", evil)
    other = visit.context.new_page()
    other.goto("https://evil.example/")
    for kind in ("text/plain", "application/json"):
        other.evaluate(
            """async ([target, kind]) => {
                const options = { method: 'POST', credentials: 'include', mode: 'no-cors', body: '{"project": {}}' };
                await fetch(target, { ...options, headers: { 'Content-Type': kind } }).catch(() => null);
            }""",
            [target, kind],
        )
    with other.expect_event("framenavigated", timeout=TIMEOUT_MS):
        other.evaluate("document.forms[0].submit()")
    expect(other.locator("body")).to_contain_text("another origin")
    assert len(list(clinic.served.client.list_projects())) == before
