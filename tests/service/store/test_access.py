"""Tokens, roles and the audit: one suite for both kinds of store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from micromodels.errors import InvalidInput, MicromodelsError
from service.access import Call, calling
from service.domain.access import LOCAL_OWNER, Role
from service.domain.errors import NotFound, Unauthenticated
from service.domain.videos import Project
from service.store import Store, schema
from tests.service.store.conftest import Place
from tests.service.store.helpers import ONTOLOGY, box, ready_video


def test_a_token_is_its_user_with_all_roles(store: Store, project: Project) -> None:
    """Roles are those of now; a second token of the same user has them too; an administrator stays one."""
    user = f"user-{project.project_id}"
    made, bearer = store.access.issue(user)
    assert store.access.find(bearer).roles == {}
    assert store.access.set_role(project.project_id, user, Role.VIEWER).role is Role.VIEWER
    store.access.set_role(project.project_id, user, Role.REVIEWER)
    second = store.access.issue(user, is_admin=True)[1]
    for token in (bearer, second):
        caller = store.access.find(token)
        assert (caller.name, caller.is_admin, dict(caller.roles)) == (user, True, {project.project_id: Role.REVIEWER})
    assert store.access.find(store.access.issue(user)[1]).is_admin
    store.access.remove_role(project.project_id, user)
    assert store.access.find(bearer).roles == {}
    with pytest.raises(NotFound):
        store.access.remove_role(project.project_id, user)
    with pytest.raises(NotFound):
        store.access.set_role("nowhere", user, Role.ADMIN)
    assert store.access.get(made.token_id).user == user


def test_a_token_ends(store: Store) -> None:
    """By revoking, and by rotation with or without an overlap; a token that has ended is not rotated."""
    made, bearer = store.access.issue("ends")
    new, new_bearer = store.access.rotate(made.token_id, overlap_hours=1)
    assert store.access.find(bearer).token_id == made.token_id
    assert store.access.find(new_bearer).token_id == new.token_id
    store.access.rotate(new.token_id)
    with pytest.raises(Unauthenticated):
        store.access.find(new_bearer)
    with pytest.raises(InvalidInput, match="still valid"):
        store.access.rotate(new.token_id)
    first = store.access.revoke(made.token_id)
    assert store.access.revoke(made.token_id) == first
    with pytest.raises(Unauthenticated):
        store.access.find(bearer)
    with pytest.raises(NotFound):
        store.access.revoke("nothing")


@pytest.mark.parametrize(
    ("user", "days"), [("local", 1.0), ("Anna", 1.0), ("", 1.0), ("a b", 1.0), ("anna", 0.0), ("anna", 4000.0)]
)
def test_names_and_times_are_checked(store: Store, user: str, days: float) -> None:
    """The name of the local owner is nobody's; tokens do not last for ever."""
    with pytest.raises(InvalidInput):
        store.access.issue(user, days=days)


def test_lists_go_by_pages(store: Store, project: Project) -> None:
    """Tokens and members."""
    for number in range(3):
        user = f"page-{number}-{project.project_id}"
        store.access.issue(user)
        store.access.set_role(project.project_id, user, Role.VIEWER)
    first = store.access.members(project.project_id, limit=2)
    rest = store.access.members(project.project_id, after=first.next_after)
    assert [len(first.items), len(rest.items), rest.next_after] == [2, 1, ""]
    tokens = store.access.list(limit=2)
    assert tokens.next_after
    assert store.access.list(after=tokens.next_after).items[0] not in tokens.items


def test_the_database_refuses_to_change_the_audit(store: Store) -> None:
    """UPDATE and DELETE fail in either database, and the chain holds."""
    with calling(Call(LOCAL_OWNER, "test/refuse")):
        store.projects.create("p", ONTOLOGY)
    for statement in (schema.audit.delete(), schema.audit.update().values(actor="nobody")):
        with pytest.raises(MicromodelsError), store._database.begin(write=True) as connection:
            connection.execute(statement)
    assert store.audit.verify().problem == ""


def test_many_writers_make_one_chain(place: Place, tmp_path: Path) -> None:
    """Eight at once, with reads between: every row follows the one before, and each write has exactly one."""
    with Store.open(place(tmp_path)) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        videos = [ready_video(store, project) for _ in range(8)]

        def work(number: int) -> None:
            video = videos[number]
            for frame in range(10):
                with calling(Call(LOCAL_OWNER, f"test/{number}")) as call:
                    store.labels.write(project, video.video_id, [box(frame)], author="a")
                    store.audit.enqueue(Call(LOCAL_OWNER, "test/read"), "OK")
                assert call.rows == 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        report = store.audit.verify()
        assert report.problem == ""
        methods = [row.method for row in store.audit.rows()]
        assert methods.count("test/read") == 80
        assert all(methods.count(f"test/{number}") == 10 for number in range(8))
        assert [row.sequence for row in store.audit.rows()] == list(range(1, report.rows + 1))
