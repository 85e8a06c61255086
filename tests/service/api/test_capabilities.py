"""What a server says that it can do is what it does."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import micromodels
from micromodels.client.messages import label_to_message
from micromodels.encoding.encoders import default_encoder_name, encoders
from micromodels.labels.formats import find_format, label_formats
from micromodels.recipes.base import recipe, recipe_names
from micromodels.types import Box, Label, State
from micromodels.v1 import label_pb2, video_pb2
from tests.added_package import REPOSITORY, added_package
from tests.service.api.harness import ONTOLOGY, Running, box, refused


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of docs/how-to/extending.md is installed, in this process and those that it starts."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    with added_package(tmp_path / "site"):
        yield


def test_the_formats_are_those_that_are_installed(running: Running) -> None:
    """Each with all that clients show of it."""
    found = running.client.get_capabilities()
    assert found.server_version == micromodels.__version__
    assert [one.name for one in found.label_formats] == [one.name for one in label_formats()]
    for message in found.label_formats:
        one = find_format(message.name)
        assert (message.title, message.extension, message.file_name) == (one.title, one.extension, one.file_name)
        assert (message.can_read, message.can_write, message.is_folder) == (one.can_read, one.can_write, one.is_folder)
        assert set(message.keeps) == {part.value for part in one.keeps}
        assert message.loses == one.loses


def test_recipes_encoders_and_limits_are_those_of_the_library(running: Running, video: video_pb2.Video) -> None:
    """The default can be used; what lies over a limit is refused."""
    found = running.client.get_capabilities()
    for message in found.recipes:
        info = recipe(message.name).info
        assert (message.title, message.description) == (info.title, info.description)
        assert tuple(message.missing_packages) == info.missing
        assert (message.needs_gpu, message.max_experiments) == (info.needs_gpu, info.max_experiments)
        assert message.supports_corrections == info.supports_corrections
        assert message.supports_frame_classes == info.supports_frame_classes
    assert tuple(one.name for one in found.recipes) == recipe_names()
    (default,) = [one for one in found.recipes if one.is_default]
    assert (default.name, list(default.missing_packages)) == ("head", [])
    assert [(one.name, tuple(one.forms)) for one in found.encoders] == [(one.name, one.forms) for one in encoders()]
    assert found.default_encoder == default_encoder_name()
    limits = found.limits
    assert limits.max_upload_bytes == running.settings.max_upload_bytes
    assert 0 < limits.max_polygon_points < limits.max_mask_pixels
    running.client.write_labels(video.name, [box(0)])
    for experiments, effort in (
        (limits.max_experiments + 1, 1.0),
        (1, limits.max_effort * 1.01),
        (1, limits.min_effort / 2),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT"):
            running.client.train(video.name, experiments=experiments, effort=effort)
    labels = [label_to_message(box(0))] * (limits.max_labels_per_call + 1)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels"):
        running.stubs.labels.WriteLabels(label_pb2.WriteLabelsRequest(parent=video.name, labels=labels))


def test_every_format_that_can_be_written_is_exported(running: Running, video: video_pb2.Video, tmp_path: Path) -> None:
    """As a file of its name after the project's and the video's; one that is a folder as a zip of it."""
    running.client.write_labels(video.name, [box(0), box(3)])
    for one in running.client.get_capabilities().label_formats:
        if not one.can_write:
            continue
        (path,) = running.client.export(video.name, tmp_path / one.name, file_format=one.name)
        assert path.name == "Test-video.mp4-" + one.file_name + (".zip" if one.is_folder else "")
        if one.name == "masks":
            names = zipfile.ZipFile(path).namelist()
            assert {"000000.png", "000023.png", "tracks.json"} <= set(names)


def test_names_of_exports_are_safe(running: Running, tmp_path: Path) -> None:
    """Whatever a project is called: no folders, no hidden files, none too long."""
    for title, begins in (
        ("../Colon / study: \u00fc <1>", "Colon_study_\u00fc_1-video.mp4-"),
        ("...", "video.mp4-"),
        ("x" * 200, "x" * 60 + "-video.mp4-"),
    ):
        project = running.client.create_project(title, ONTOLOGY)
        video = running.video(project.name)
        running.client.write_labels(video.name, [box(0)])
        (path,) = running.client.export(video.name, tmp_path)
        assert path == tmp_path / (begins + "labels.jsonl")
        assert path.is_file()


def test_a_format_that_is_not_there_is_refused_with_those_that_are(running: Running, video: video_pb2.Video) -> None:
    """Also no format at all."""
    for name in ("", "pickle", "EXPORT_FORMAT_COCO"):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "format") as errors:
            running.client.export(video.name, ".", file_format=name)
        for word in ("'coco'", "'jsonl'", "'archive'", "'review_report'"):
            assert word in str(errors[0])


@pytest.mark.usefixtures("installed")
def test_a_format_of_another_package_is_listed_and_exported(
    running: Running, video: video_pb2.Video, tmp_path: Path
) -> None:
    """The server lists it, and the process of the job writes it."""
    (found,) = [one for one in running.client.get_capabilities().label_formats if one.name == "table"]
    assert (found.title, found.extension) == ("Boxes as a table", ".boxes")
    assert (found.can_read, found.can_write, list(found.keeps)) == (True, True, ["boxes", "tracks"])
    assert found.loses == "Keeps visible boxes, their tracks and classes alone."
    absent = Label(5, "1", "square", State.ABSENT)
    running.client.write_labels(video.name, [Label(3, "1", "square", State.VISIBLE, Box(1, 2, 30, 40.5)), absent])
    (path,) = running.client.export(video.name, tmp_path / "out", file_format="table")
    assert path.name == "Test-video.mp4-labels.boxes"
    assert path.read_text().splitlines() == ["3,1,square,1.0,2.0,30.0,40.5"]
