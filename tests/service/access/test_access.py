"""Tokens, roles and refusals, over TLS, through the client."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from micromodels.client import ApiError, Client
from micromodels.v1 import access_pb2, label_pb2, project_pb2, video_pb2
from service.access import RULES
from service.access.bearer import bearer_of, new_bearer
from service.domain.access import PERMISSIONS, Permission, Role
from service.domain.errors import Unauthenticated
from service.store import Store
from service.store.clock import SteadyClock
from tests.service.api.harness import ONTOLOGY, Running, box, refused
from tests.service.api.test_protos import METHODS

Member = Callable[[str, Role], Client]


@pytest.fixture(scope="module")
def video(guarded: Running) -> video_pb2.Video:
    return guarded.video()


def project_of(video: video_pb2.Video) -> str:
    return video.name.split("/videos/")[0]


def test_every_call_has_a_rule_and_every_rule_a_call() -> None:
    """The table of permissions is whole: a method that is not in it would be refused to everybody."""
    declared = {f"/{method.containing_service.full_name}/{method.name}" for method in METHODS}
    assert declared == set(RULES)


def test_every_rule_names_a_field_of_the_request() -> None:
    """The field that says which project a call is about is there, is text, and is set for all but a few."""
    free = set()
    for method in METHODS:
        rule = RULES[f"/{method.containing_service.full_name}/{method.name}"]
        message = method.input_type
        *outer, last = rule.field.split(".")
        if not rule.field:
            free.add(method.name)
            assert rule.permission in (Permission.SIGNED_IN, Permission.SERVER)
            continue
        for part in outer:
            message = message.fields_by_name[part].message_type
        assert message.fields_by_name[last].type == message.fields_by_name[last].TYPE_STRING
    tokens = {"GetCaller", "IssueToken", "ListTokens", "RevokeToken", "RotateToken"}
    assert free == tokens | {"CreateProject", "GetCapabilities", "ListProjects", "VerifyAudit"}


def test_roles_grow() -> None:
    """Each role includes the one below; only the administrator of a project manages it; none is the server's."""
    viewer, annotator, reviewer, admin = (
        PERMISSIONS[role] for role in (Role.VIEWER, Role.ANNOTATOR, Role.REVIEWER, Role.ADMIN)
    )
    assert viewer < annotator < reviewer < admin
    assert PERMISSIONS[Role.SERVICE] == annotator | {Permission.CURATE}
    assert Permission.SERVER not in frozenset().union(*PERMISSIONS.values())


@pytest.mark.parametrize("token", [None, "", "mm_x", "mm_0123456789abcdef_" + "A" * 43])
def test_without_a_valid_token_nothing_is_answered(guarded: Running, token: str | None) -> None:
    """Fault 15: UNAUTHENTICATED for calls, for streams and for garbage; health still answers."""
    with guarded.connect(token) as client:
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            client.get_project("projects/a")
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            list(client.read_labels("projects/a/videos/b"))
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            client.stubs.projects.CreateProject(project_pb2.CreateProjectRequest())


def test_an_expired_token_is_refused(guarded: Running) -> None:
    """Fault 15: it works, then its time is over."""
    for seconds in (1, 10, 100):  # a busy machine may take longer than a token lives
        _, bearer = guarded.store.access.issue("brief", days=seconds / 86400)
        with guarded.connect(str(bearer)) as client:
            try:
                assert list(client.list_projects()) == []
            except ApiError:
                continue
            _until_refused("UNAUTHENTICATED", lambda: list(client.list_projects()))
            return
    pytest.fail("no token worked")


def test_a_revoked_token_is_refused_and_a_rotated_one_replaced(guarded: Running) -> None:
    """The new token works, the old one ends within the stated bound; users see and end their own only."""
    issued = guarded.client.access.issue_token("rota")
    with guarded.connect(issued.secret) as old:
        assert old.access.get_caller().user == "rota"
        assert not old.access.get_caller().server_admin
        rotated = old.access.rotate_token(issued.token.name)
        with guarded.connect(rotated.secret) as new:
            assert new.access.get_caller().user == "rota"
            _until_refused("UNAUTHENTICATED", old.access.get_caller)
            with refused("NOT_FOUND"):
                new.access.revoke_token(f"tokens/{guarded.store.access.issue('other')[0].token_id}")
            with refused("PERMISSION_DENIED"):
                new.access.issue_token("friend")
            with refused("PERMISSION_DENIED"):
                new.stubs.access.ListTokens(access_pb2.ListTokensRequest(), metadata=_bearer(rotated.secret))
            assert new.access.revoke_token(rotated.token.name).HasField("revoke_time")
            _until_refused("UNAUTHENTICATED", new.access.get_caller)
    listed = {token.name: token for token in guarded.client.access.list_tokens()}
    assert listed[rotated.token.name].HasField("revoke_time")
    with refused("NOT_FOUND"):
        guarded.client.access.revoke_token("tokens/nothing")


def _bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def _until_refused(code: str, call: Callable[[], object]) -> None:
    """Call until it is refused with this status, which takes a second or so."""
    begun = time.monotonic()
    while time.monotonic() - begun < 120:
        try:
            call()
        except ApiError as error:
            if error.code != code:
                raise
            return
    pytest.fail(f"still answered, expected {code}")


def test_foreign_projects_look_as_if_they_were_not_there(
    guarded: Running, member: Member, video: video_pb2.Video
) -> None:
    """Fault 16: NOT_FOUND in the very words of a project that does not exist, and a row in the audit."""
    mine = guarded.project().name
    client = member(mine, Role.ADMIN)
    foreign = project_of(video)
    calls: list[Callable[[str], object]] = [
        client.get_project,
        lambda project: client.get_video(f"{project}/videos/{video.name.rsplit('/', 1)[1]}"),
        lambda project: list(client.read_labels(f"{project}/videos/{video.name.rsplit('/', 1)[1]}")),
        lambda project: client.write_labels(f"{project}/videos/{video.name.rsplit('/', 1)[1]}", [box(0)]),
        lambda project: client.delete_project(project, force=True),
        lambda project: client.operation(f"{project}/operations/abc").done(),
    ]
    for call in calls:
        with refused("NOT_FOUND", "NOT_FOUND") as there:
            call(foreign)
        with refused("NOT_FOUND", "NOT_FOUND") as nowhere:
            call("projects/nowhere")
        assert there[0].message.replace(foreign.split("/")[1], "nowhere") == nowhere[0].message
    rows = [row for row in guarded.store.audit.rows(project_id=foreign.split("/")[1]) if row.outcome == "NOT_FOUND"]
    assert [row.method.rsplit("/", 1)[1] for row in rows][-6:] == [
        "GetProject",
        "GetVideo",
        "StreamLabels",
        "WriteLabels",
        "DeleteProject",
        "GetOperation",
    ]
    assert {row.actor for row in rows[-6:]} == {"admin-0"}
    assert [project.name for project in client.list_projects()] == [mine]


@pytest.mark.parametrize("role", Role)
def test_each_role_may_what_the_table_says(
    guarded: Running, member: Member, video: video_pb2.Video, role: Role
) -> None:
    """Fault 17 and more: a viewer's write is PERMISSION_DENIED; what a role has it can do."""
    client = member(project_of(video), role)
    tried: dict[Permission, Callable[[], object]] = {
        Permission.READ: lambda: list(client.read_labels(video.name)),
        Permission.WORK: lambda: client.write_labels(video.name, [box(0, role.value)]),
        Permission.CURATE: lambda: client.delete_micro_model_version(f"{project_of(video)}/microModels/m/versions/1"),
        Permission.MANAGE: lambda: client.update_project(project_of(video), display_name="New"),
        Permission.SERVER: lambda: client.create_project("Other", ONTOLOGY),
    }
    for permission, call in tried.items():
        if permission not in PERMISSIONS[role]:
            with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
                call()
        elif permission is Permission.CURATE:
            with refused("NOT_FOUND"):  # allowed, and there is none
                call()
        else:
            call()
    written = [record for record in guarded.store.labels.stream(*_ids(video)) if record.key.name == role.value]
    assert [record.author for record in written] == ([f"{role.value}-0"] if role is not Role.VIEWER else [])


def _ids(video: video_pb2.Video) -> tuple[str, str]:
    _, project_id, _, video_id = video.name.split("/")
    return project_id, video_id


def test_a_role_that_is_withdrawn_ends_an_open_stream(guarded: Running, member: Member) -> None:
    """Fault 18: PERMISSION_DENIED, while the stream is silent, and no news after that."""
    video = guarded.video()
    project = project_of(video)
    guarded.client.write_labels(video.name, [box(0, "slow")])
    training = guarded.client.train(video.name)
    client = member(project, Role.VIEWER)
    watch = client.operation(training.name).watch()
    assert next(watch)

    def withdraw() -> None:
        guarded.client.access.remove_member(f"{project}/members/viewer-0")

    threading.Timer(0.5, withdraw).start()
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        for _ in watch:
            pass
    training.cancel()
    with suppress(ApiError):
        training.result(120)


def test_members_are_listed_and_changed(guarded: Running, member: Member, video: video_pb2.Video) -> None:
    """SetMember, ListMembers and RemoveMember are for the project's administrators; users must be known."""
    project = guarded.project().name
    admin, viewer = member(project, Role.ADMIN), member(project, Role.VIEWER)
    assert [m.name.rsplit("/", 1)[1] for m in admin.access.list_members(project)] == ["admin-0", "viewer-1"]
    changed = admin.access.set_member(project, "viewer-1", "annotator")
    assert changed.role == access_pb2.ROLE_ANNOTATOR
    with refused("NOT_FOUND"):
        admin.access.set_member(project, "nobody", "viewer")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "role"):
        guarded.client.stubs.access.SetMember(
            access_pb2.SetMemberRequest(parent=project, user="viewer-1"),
            metadata=guarded.client._connection._metadata,
        )
    with refused("PERMISSION_DENIED"):
        list(viewer.access.list_members(project))
    admin.access.remove_member(f"{project}/members/viewer-1")
    _until_refused("NOT_FOUND", lambda: viewer.get_project(project))


def test_a_name_that_is_none_is_refused_before_anything_is_looked_up(guarded: Running, member: Member) -> None:
    """The guard needs to know the project: what names none is INVALID_ARGUMENT for members."""
    client = member(guarded.project().name, Role.ADMIN)
    for name in ("", "projects", "projects/../x", "projects/A", "videos/x"):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "name"):
            client.get_project(name)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "parent"):
        client._connection.call(client.stubs.labels.WriteLabels, label_pb2.WriteLabelsRequest())


def test_only_checksums_of_secrets_are_kept(guarded: Running) -> None:
    """Neither database nor audit holds what a caller has to send; `repr` does not show it."""
    _, bearer = guarded.store.access.issue("kept")
    guarded.store.audit.flush()
    found = b"".join(path.read_bytes() for path in guarded.settings.data_dir.glob("database.sqlite*"))
    assert bearer.sha256.encode() in found
    assert bearer.secret.encode() not in found
    assert bearer.secret not in repr(bearer)
    assert re.fullmatch(r"mm_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", str(bearer))


@pytest.mark.parametrize("header", ["", "Bearer ", "Basic abc", "Bearer mm_1_2", "bearer  " + str(new_bearer()) + "x"])
def test_a_header_without_a_token(header: str) -> None:
    """It is refused, and what was sent is not repeated."""
    with pytest.raises(Unauthenticated) as raised:
        bearer_of(header)
    assert len(header) < 8 or header not in str(raised.value)


class Clocks:
    """A wall clock and an uptime that a test turns."""

    def __init__(self) -> None:
        self.wall, self.uptime = datetime(2026, 1, 1, tzinfo=UTC), 0.0

    def make(self, not_before: datetime | None = None) -> SteadyClock:
        return SteadyClock(not_before, wall=lambda: self.wall, uptime_seconds=lambda: self.uptime)

    def run(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.uptime += seconds


def test_a_clock_that_jumps_changes_no_expiry(guarded: Running, tmp_path: object) -> None:
    """Fault 60 for tokens: ten years forward or back while the server runs, and back over a restart."""
    clocks = Clocks()
    clock, begun = clocks.make(), clocks.wall
    for years in (10, -20, 10):
        clocks.wall += timedelta(days=365 * years)
        clocks.run(60)
        assert clock.now() <= begun + timedelta(minutes=4)
    assert clock.now() == begun + timedelta(minutes=3)
    clocks.wall = begun - timedelta(days=3650)
    assert clocks.make(not_before=begun).now() == begun


def test_a_clock_that_is_put_right_is_followed() -> None:
    """Small corrections forward count; nothing goes back."""
    clocks = Clocks()
    clock = clocks.make()
    clocks.wall += timedelta(hours=2)
    later = clock.now()
    assert later == clocks.wall
    clocks.wall -= timedelta(hours=1)
    assert clock.now() == later
    assert not clock.disagrees
    assert not clocks.make(not_before=clocks.wall - timedelta(days=9)).disagrees, "the server was off for nine days"
    assert clocks.make(not_before=clocks.wall + timedelta(days=9)).disagrees


def test_a_store_goes_on_from_its_newest_record(guarded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts with a clock ten years behind does not let an expired token in again."""
    _, bearer = guarded.store.access.issue("old", days=1 / 86400)
    guarded.client.access.get_caller()
    time.sleep(1.1)
    guarded.client.create_project("later", ONTOLOGY)  # writes a row
    early = functools.partial(SteadyClock, wall=lambda: datetime(2016, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("service.store.SteadyClock", early)
    with Store.open(guarded.settings, exclusive=False) as store, pytest.raises(Unauthenticated):
        store.access.find(bearer)
