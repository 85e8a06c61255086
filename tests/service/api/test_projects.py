"""ProjectService: standard methods, update masks, page tokens, request ids."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from micromodels import v1
from micromodels.client.messages import ontology_from_message
from micromodels.types import FrameClass, ObjectClass, Ontology, ShapeKind
from micromodels.v1 import project_pb2 as pb
from service.access.rules import RULES
from tests.service.api.harness import ONTOLOGY, Running, fresh_id, refused


def test_a_project_comes_back_as_it_was_made(running: Running) -> None:
    """CreateProject, GetProject: the ontology survives both ways, with limits and shapes."""
    shapes = frozenset({ShapeKind.BOX, ShapeKind.MASK})
    ontology = Ontology((ObjectClass("polyp", "#00ff00", shapes, 3, False),), (FrameClass("blurred", "#0000ff"),))
    made = running.client.create_project("Colon", ontology)
    read = running.client.get_project(made.name)
    assert read == made
    assert read.display_name == "Colon"
    assert ontology_from_message(read.object_classes, read.frame_classes) == ontology


def test_flip_is_allowed_unless_said_otherwise(running: Running) -> None:
    """An object class without `flip` may be mirrored."""
    request = pb.CreateProjectRequest(project=pb.Project(object_classes=[pb.ObjectClass(name="ball")]))
    assert running.stubs.projects.CreateProject(request).object_classes[0].flip


def test_the_caller_may_choose_the_id(running: Running) -> None:
    """A chosen id makes the name; the second one of the same id is refused."""
    project_id = f"p-{fresh_id()[:8]}"
    assert running.client.create_project("A", ONTOLOGY, project_id=project_id).name == f"projects/{project_id}"
    with refused("ALREADY_EXISTS", "ALREADY_EXISTS"):
        running.client.create_project("B", ONTOLOGY, project_id=project_id)


@pytest.mark.parametrize("project_id", ["../x", "A", "-a", "a/b", "x" * 64, "a\0b"])
def test_a_bad_id_is_refused(running: Running, project_id: str) -> None:
    """Ids are short and plain; the error names the field."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "project_id"):
        running.client.create_project("A", ONTOLOGY, project_id=project_id)


def test_a_bad_class_is_refused_by_its_path(running: Running) -> None:
    """The error names the class that is wrong."""
    bad = pb.Project(object_classes=[pb.ObjectClass(name="a"), pb.ObjectClass(name="", max_instances=1)])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "project.object_classes[1].name"):
        running.stubs.projects.CreateProject(pb.CreateProjectRequest(project=bad))
    red = pb.Project(frame_classes=[pb.FrameClass(name="a", color="red")])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "project.frame_classes[0].color"):
        running.stubs.projects.CreateProject(pb.CreateProjectRequest(project=red))
    twice = pb.Project(object_classes=[pb.ObjectClass(name="a")], frame_classes=[pb.FrameClass(name="a")])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "project.ontology"):
        running.stubs.projects.CreateProject(pb.CreateProjectRequest(project=twice))


def test_a_request_id_makes_creating_safe_to_repeat(running: Running) -> None:
    """Fault 13: the same id with the same body is one project; with another body it is ALREADY_EXISTS."""
    request = pb.CreateProjectRequest(project=pb.Project(display_name="once"), request_id=fresh_id())
    first = running.stubs.projects.CreateProject(request)
    assert running.stubs.projects.CreateProject(request) == first
    request.project.display_name = "twice"
    with refused("ALREADY_EXISTS", "REQUEST_ID_REUSED"):
        running.stubs.projects.CreateProject(request)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "request_id"):
        running.stubs.projects.CreateProject(pb.CreateProjectRequest(request_id="x" * 129))


def test_update_changes_what_the_mask_names(running: Running) -> None:
    """UpdateProject: one field, and one half of the ontology."""
    made = running.project()
    renamed = running.client.update_project(made.name, display_name="Renamed")
    assert renamed.display_name == "Renamed"
    assert renamed.object_classes == made.object_classes
    assert renamed.etag != made.etag

    request = pb.UpdateProjectRequest(project=pb.Project(name=made.name, frame_classes=[pb.FrameClass(name="dark")]))
    request.update_mask.paths.append("frame_classes")
    half = running.stubs.projects.UpdateProject(request)
    assert half.object_classes == made.object_classes
    assert [c.name for c in half.frame_classes] == ["dark"]


def test_update_without_a_mask_changes_what_is_set(running: Running) -> None:
    """AIP-134: fields that are left out stay; ``*`` replaces all; a field that is named may be emptied."""
    made = running.client.create_project("Before", ONTOLOGY)
    running.client.update_project(made.name, retention_days=30)
    wanted = pb.Project(name=made.name, display_name="After")
    update = running.stubs.projects.UpdateProject
    changed = update(pb.UpdateProjectRequest(project=wanted))
    assert (changed.display_name, changed.retention_days) == ("After", 30)
    assert ontology_from_message(changed.object_classes, changed.frame_classes) == ONTOLOGY
    nothing = pb.Project(name=made.name)
    same = update(pb.UpdateProjectRequest(project=nothing))
    assert (same.display_name, same.retention_days, len(same.object_classes)) == ("After", 30, 2)
    named = pb.UpdateProjectRequest(project=nothing, update_mask={"paths": ["retention_days"]})
    kept = update(named)
    assert (kept.display_name, kept.retention_days, len(kept.frame_classes)) == ("After", 0, 1)
    replaced = update(pb.UpdateProjectRequest(project=wanted, update_mask={"paths": ["*"]}))
    assert (replaced.display_name, len(replaced.object_classes), len(replaced.frame_classes)) == ("After", 0, 0)


@pytest.mark.parametrize("paths", [["*", "display_name"], ["display_name", "object_classes.name"], [""], ["name"]])
def test_update_refuses_other_paths(running: Running, paths: list[str]) -> None:
    """Paths that are unknown, read-only or inside a list, and ``*`` beside others; nothing is changed."""
    made = running.client.create_project("Before", ONTOLOGY)
    wanted = pb.Project(name=made.name, display_name="After")
    with refused("INVALID_ARGUMENT"):
        running.stubs.projects.UpdateProject(pb.UpdateProjectRequest(project=wanted, update_mask={"paths": paths}))
    assert running.client.get_project(made.name) == made


def test_every_mask_is_read_by_one_rule() -> None:
    """A new method with an update mask must use ``updated_fields`` and be tested as UpdateProject is."""
    masked = [
        name
        for module in pkgutil.iter_modules(v1.__path__)
        if module.name.endswith("_pb2")
        for name, message in vars(importlib.import_module(f"{v1.__name__}.{module.name}")).items()
        if "update_mask" in getattr(getattr(message, "DESCRIPTOR", None), "fields_by_name", ())
    ]
    assert masked == ["UpdateProjectRequest"]
    assert [name for name in RULES if "/Update" in name] == ["/micromodels.v1.ProjectService/UpdateProject"]


def test_update_refuses_unknown_fields_and_lost_races(running: Running) -> None:
    """An unknown path is INVALID_ARGUMENT; a stale etag is ABORTED and changes nothing."""
    made = running.project()
    request = pb.UpdateProjectRequest(project=pb.Project(name=made.name))
    request.update_mask.paths.append("create_time")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "update_mask.paths[0]"):
        running.stubs.projects.UpdateProject(request)
    running.client.update_project(made.name, display_name="First", etag=made.etag)
    with refused("ABORTED", "ABORTED"):
        running.client.update_project(made.name, display_name="Second", etag=made.etag)
    assert running.client.get_project(made.name).display_name == "First"


def test_pages_follow_each_other(running: Running) -> None:
    """ListProjects: tokens are honored, opaque, and bound to their request; every project comes once."""
    made = {running.project().name for _ in range(3)}
    request = pb.ListProjectsRequest(page_size=2)
    seen: list[str] = []
    while True:
        page = running.stubs.projects.ListProjects(request)
        assert len(page.projects) <= 2
        seen += [project.name for project in page.projects]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    assert seen == [project.name for project in running.client.list_projects()]
    for bad in ("nonsense", "####", "2", "WyJ4IiwiMSJd"):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "page_token"):
            running.stubs.projects.ListProjects(pb.ListProjectsRequest(page_token=bad))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "page_size"):
        running.stubs.projects.ListProjects(pb.ListProjectsRequest(page_size=-1))


def test_delete_spares_projects_with_videos_unless_forced(running: Running) -> None:
    """DeleteProject: FAILED_PRECONDITION, then with force gone."""
    video = running.video()
    name = "/".join(video.name.split("/")[:2])
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        running.client.delete_project(name)
    running.client.delete_project(name, force=True)
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.get_project(name)
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.get_video(video.name)


@pytest.mark.parametrize("name", ["", "projects/", "project/a", "projects/a/b", "projects/../a", "projects/a\n"])
def test_a_name_of_another_form_is_refused(running: Running, name: str) -> None:
    """The error shows the form that names have."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "name") as errors:
        running.client.get_project(name)
    assert "projects/{project}" in str(errors[0])
