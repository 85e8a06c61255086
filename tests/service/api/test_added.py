"""Recipes and encoders of another package, over the API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.recipes.base import recipe_names
from micromodels.types import ObjectClass, Ontology
from tests.added_package import REPOSITORY, added_package
from tests.service.api.harness import Running, box, refused

BUILT_IN = recipe_names()


@pytest.fixture
def running(tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server, with workers, where the package of docs/how-to/extending.md is installed."""
    site = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(REPOSITORY)]))
    with added_package(site):
        made = Running(tmp_path, tiny_clip / "video.mp4")
        try:
            yield made
        finally:
            made.stop()


def test_the_server_takes_what_is_added(running: Running) -> None:
    """It is checked in the name of the recipe, and trained with in a worker; errors list it."""
    client = running.client
    project = client.create_project("Test", Ontology((ObjectClass("square"),))).name
    video = client.register_video(project, str(running.clip), timeout_seconds=240).name
    for settings, field, words in (
        ({"recipe": "magic"}, "recipe", ", ".join(("auto", *BUILT_IN, "alone", "nearest"))),
        ({"recipe": "nearest", "experiments": 2}, "experiments", "1 with recipe nearest"),
        ({"recipe": "nearest", "encoder": "colors"}, "encoder", "recipe nearest"),
        ({"encoder": "magic"}, "encoder", "colors"),
        ({"encoder": "dinov2s@/etc/passwd"}, "encoder", "dinov2s, lite0, "),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", f"settings.{field}") as errors:
            list(client.auto_label(video, [box(0)], **settings))  # type: ignore[arg-type]
        assert words in str(errors[0])
    run = client.auto_label(video, [box(0)], recipe="alone", encoder="pixels+colors", experiments=2)
    assert len(list(run.labels())) == 24
    assert client.train(video, recipe="nearest").result(120).name
