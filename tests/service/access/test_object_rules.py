"""Fault 81: who may touch what a reviewer decided, what others wrote, and what only programs write.

The answers stand here literally, not read from the table that the server reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from micromodels.client import ApiError, Client, label_key
from micromodels.types import Label, Provenance, ProvenanceKind
from micromodels.v1 import video_pb2
from service.domain.access import Role
from tests.service.api.harness import Running, box

MODEL = Provenance(ProvenanceKind.MODEL, "other tool")
Act = Callable[[Client, str], object]

ROLES = (Role.VIEWER, Role.ANNOTATOR, Role.REVIEWER, Role.SERVICE, Role.ADMIN)


def guess(frame: int, track: str, x1: float = 16.0) -> Label:
    return replace(box(frame, track, x1=x1), confidence=0.5, provenance=MODEL)


def correct(client: Client, video: str, *labels: Label) -> None:
    list(client.review.correct_labels(video, labels))


# a is drawn and accepted on frame 0, b drawn and locked on 1, c predicted and accepted on 2;
# d is drawn on 3, e predicted on 4.
ACTS: dict[str, tuple[Act, str]] = {
    # what is done:                       viewer, annotator, reviewer, service, admin
    "draw over an accepted label": (lambda c, v: c.write_labels(v, [box(0, "a", x1=9)]), "no no yes no yes"),
    "draw over a locked label": (lambda c, v: c.write_labels(v, [box(1, "b", x1=9)]), "no no yes no yes"),
    "draw over an accepted prediction": (lambda c, v: c.write_labels(v, [box(2, "c", x1=9)]), "no no yes no yes"),
    "draw over an undecided label": (lambda c, v: c.write_labels(v, [box(3, "d", x1=9)]), "no yes yes yes yes"),
    "delete all labels": (lambda c, v: c.delete_labels(v), "no no yes no yes"),
    "delete undecided labels": (lambda c, v: c.delete_labels(v, tracks=["d"]), "no yes yes yes yes"),
    "correct an accepted label": (lambda c, v: correct(c, v, box(0, "a", x1=9)), "no no yes no yes"),
    "correct elsewhere": (lambda c, v: correct(c, v, box(5, "a", x1=9)), "no yes yes yes yes"),
    "reclassify an accepted track": (lambda c, v: correct(c, v, box(5, "c", "letter")), "no no yes no yes"),
    "seed over a locked label": (lambda c, v: list(c.auto_label(v, [box(1, "b", x1=9)])), "no no yes no yes"),
    "swap accepted tracks": (lambda c, v: c.review.swap_tracks(v, "a", "d"), "no no yes no yes"),
    "split an accepted track": (lambda c, v: c.review.split_track(v, "a", "z", frames=range(9)), "no no yes no yes"),
    "merge accepted tracks": (lambda c, v: c.review.merge_tracks(v, "d", "b"), "no no yes no yes"),
    "delete a locked track": (lambda c, v: c.review.delete_track(v, "b"), "no no yes no yes"),
    "delete an undecided track": (lambda c, v: c.review.delete_track(v, "d"), "no yes yes yes yes"),
    "write as a model": (lambda c, v: c.write_labels(v, [guess(9, "f")]), "no no no yes no"),
    "write as a model over a prediction": (lambda c, v: c.write_labels(v, [guess(4, "e", x1=9)]), "no no no yes no"),
}


@pytest.fixture(scope="module")
def shared(guarded: Running) -> video_pb2.Video:
    return guarded.video()


@pytest.fixture
def video(guarded: Running, shared: video_pb2.Video) -> str:
    return shared.name


def prepare(owner: Client, video: str) -> None:
    owner.delete_labels(video)
    owner.write_labels(video, [box(0, "a"), box(1, "b"), guess(2, "c"), box(3, "d"), guess(4, "e")])
    owner.review.review_labels(video, "accept", keys=[label_key(0, track="a"), label_key(2, track="c")])
    owner.review.review_labels(video, "lock", keys=[label_key(1, track="b")])


def answer(act: Callable[[], object]) -> str:
    try:
        act()
    except ApiError as error:
        if error.code != "PERMISSION_DENIED":
            raise
        return "no"
    return "yes"


@pytest.mark.parametrize("what", ACTS)
def test_who_may_change_what_is_decided(
    guarded: Running, member: Callable[[str, Role], Client], video: str, what: str
) -> None:
    """Method by role: the literal answer, and nothing changed by one that was refused."""
    act, expected = ACTS[what]
    found = []
    for role in ROLES:
        prepare(guarded.client, video)
        client = member(video.split("/videos/")[0], role)
        before = list(guarded.client.read_labels(video))
        found.append(answer(lambda client=client: act(client, video)))  # type: ignore[misc]
        assert (list(guarded.client.read_labels(video)) == before) == (found[-1] == "no")
    assert " ".join(found) == expected


def test_a_refusal_says_why_and_who_may(guarded: Running, member: Callable[[str, Role], Client], video: str) -> None:
    """In words, with the label."""
    prepare(guarded.client, video)
    ann = member(video.split("/videos/")[0], Role.ANNOTATOR)
    with pytest.raises(ApiError) as refused:
        ann.write_labels(video, [box(9, "z"), box(0, "a")])
    assert "the label of frame 0 track 'a' is accepted or locked by a reviewer" in str(refused.value)
    assert "'annotator-0' has the role annotator in the project; required: reviewer or admin" in str(refused.value)


def test_an_annotator_draws_again_what_was_deleted(
    guarded: Running, member: Callable[[str, Role], Client], video: str
) -> None:
    """Deleting a track locks its frames against micro-models, not against people."""
    prepare(guarded.client, video)
    ann = member(video.split("/videos/")[0], Role.ANNOTATOR)
    ann.review.delete_track(video, "d")
    ann.write_labels(video, [box(3, "d")])
    assert [x.frame for x in ann.read_labels(video, tracks=["d"])] == [3]


def test_who_may_delete_whose_comment(guarded: Running, member: Callable[[str, Role], Client], video: str) -> None:
    """Their own: whoever may comment. Of others: reviewers and administrators."""
    clients = {role: member(video.split("/videos/")[0], role) for role in ROLES}
    writers = [role for role in ROLES if role is not Role.VIEWER]
    expected = {
        Role.VIEWER: "no no no no",
        Role.ANNOTATOR: "yes no no no",
        Role.REVIEWER: "yes yes yes yes",
        Role.SERVICE: "no no yes no",
        Role.ADMIN: "yes yes yes yes",
    }
    for role, client in clients.items():
        found = []
        for writer in writers:
            made = clients[writer].review.create_comment(video, "look", frames=range(1))
            found.append(answer(lambda client=client, made=made: client.review.delete_comment(made.name)))  # type: ignore[misc]
        assert " ".join(found) == expected[role], role


def test_who_may_undo_whose_change(guarded: Running, member: Callable[[str, Role], Client], video: str) -> None:
    """Their own, unless a reviewer has decided on it since; of others: administrators."""
    clients = {role: member(video.split("/videos/")[0], role) for role in ROLES}
    expected = {
        Role.VIEWER: ("no", None, None),
        Role.ANNOTATOR: ("no", "yes", "no"),
        Role.REVIEWER: ("no", "yes", "yes"),
        Role.SERVICE: ("no", "yes", "no"),
        Role.ADMIN: ("yes", "yes", "yes"),
    }
    for role, client in clients.items():
        guarded.client.delete_labels(video)

        def undo(revision: int, client: Client = client) -> str:
            return answer(lambda: client.review.undo_change(video, revision))

        found: list[str | None] = [undo(guarded.client.write_labels(video, [box(0)])), None, None]
        if role is not Role.VIEWER:
            found[1] = undo(client.write_labels(video, [box(1, "own")]))
            later = client.write_labels(video, [box(2, "own")])
            guarded.client.review.review_labels(video, "accept", keys=[label_key(2, track="own")])
            found[2] = undo(later)
        assert tuple(found) == expected[role], role
