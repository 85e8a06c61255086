"""Projects, paging and request ids."""

from __future__ import annotations

import pytest

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.types import ObjectClass, Ontology, ShapeKind
from service.domain.errors import Aborted, AlreadyExists, NotFound
from service.domain.videos import Project, VideoRecord
from service.store import Store
from tests.service.store.helpers import ONTOLOGY


def test_what_is_created_can_be_read(store: Store, project: Project) -> None:
    """Everything of a project comes back, the ontology with every field."""
    ontology = Ontology((ObjectClass("x", "#ff0000", frozenset({ShapeKind.BOX, ShapeKind.MASK}), 3, False),))
    made = store.projects.create("a name", ontology)
    assert made == store.projects.get(made.project_id)
    assert (made.display_name, made.ontology) == ("a name", ontology)
    assert store.projects.get(project.project_id).ontology == ONTOLOGY


def test_ids_are_checked_and_unique(store: Store, project: Project) -> None:
    """A taken id and a bad one are refused."""
    with pytest.raises(AlreadyExists, match="already exists"):
        store.projects.create("p", ONTOLOGY, project_id=project.project_id)
    for bad in ("Upper", "-a", "a/b", "a" * 64, "a\0", ".."):
        with pytest.raises(InvalidInput, match="project_id"):
            store.projects.create("p", ONTOLOGY, project_id=bad)
    with pytest.raises(InvalidInput, match="display_name"):
        store.projects.create("a\0b", ONTOLOGY)
    with pytest.raises(NotFound, match="project 'none'"):
        store.projects.get("none")


def test_a_repeated_request_gets_the_same_answer(store: Store) -> None:
    """The same request id with the same body does nothing again; with another body it is refused."""
    first = store.projects.create("once", ONTOLOGY, request_id="r-1")
    assert store.projects.create("once", ONTOLOGY, request_id="r-1") == first
    with pytest.raises(AlreadyExists, match="request_id 'r-1'"):
        store.projects.create("other", ONTOLOGY, request_id="r-1")
    assert store.projects.create("once", ONTOLOGY, request_id="r-2") != first


def test_pages_cover_everything_once(store: Store) -> None:
    """Following the pages gives every project once, in the order of creation."""
    made = [store.projects.create(f"page {i}", ONTOLOGY).project_id for i in range(5)]
    found, after = [], ""
    while True:
        page = store.projects.list(after=after, limit=2)
        assert len(page.items) <= 2
        found += [item.project_id for item in page.items]
        if not page.next_after:
            break
        after = page.next_after
    assert [p for p in found if p in made] == made
    assert len(set(found)) == len(found)
    with pytest.raises(InvalidInput, match="after"):
        store.projects.list(after="x")


def test_update_changes_what_is_given(store: Store, project: Project) -> None:
    """Fields are changed one by one, and a stale etag is refused."""
    renamed = store.projects.update(project.project_id, display_name="new", etag=project.etag)
    assert (renamed.display_name, renamed.ontology) == ("new", ONTOLOGY)
    assert renamed.etag != project.etag
    with pytest.raises(Aborted, match="changed since"):
        store.projects.update(project.project_id, display_name="lost", etag=project.etag)
    assert store.projects.update(project.project_id, ontology=Ontology()).ontology == Ontology()
    with pytest.raises(NotFound):
        store.projects.update("none", display_name="x")


def test_delete_takes_everything_along(store: Store, project: Project, video: VideoRecord) -> None:
    """A project with an unfinished job stays; afterwards nothing of it is found."""
    job_id = store.videos.get(project.project_id, video.video_id).probe_job_id
    upload = store.uploads.begin(project.project_id, "w.mp4", 1)
    store.uploads.append(project.project_id, upload.upload_id, 0, b"x")
    waiting = store.uploads.finish(project.project_id, upload.upload_id)
    with pytest.raises(FailedPrecondition, match="not finished"):
        store.projects.delete(project.project_id)
    store.jobs.cancel(project.project_id, waiting.probe_job_id)
    store.projects.delete(project.project_id)
    for read in (
        lambda: store.projects.get(project.project_id),
        lambda: store.videos.get(project.project_id, video.video_id),
        lambda: store.jobs.get(project.project_id, job_id),
        lambda: store.projects.delete(project.project_id),
    ):
        with pytest.raises(NotFound):
            read()
