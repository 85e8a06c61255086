"""Where things are found by name, and what happens to those that cannot be used."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from micromodels import recipes
from micromodels.encoding import encoders
from micromodels.encoding.encoders import ENCODERS
from micromodels.errors import InvalidInput
from micromodels.recipes.base import RECIPES, Recipe, RecipeInfo, recipe
from micromodels.runtime import registry
from micromodels.runtime.registry import Registry, missing_packages

GROUP = "micromodels.recipes"
BUILT_IN = RECIPES.names()


class Thing:
    """What an entry point may name."""

    info = RecipeInfo("thing", "A thing", "For tests.")


class Fails:
    """Cannot even say what it is."""

    @property
    def info(self) -> RecipeInfo:
        raise RuntimeError("it is broken")


THING, FAILS = Thing(), Fails()


def with_entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> Registry[Recipe]:
    """Recipes with these entry points beside those built in."""
    found = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: found if group == GROUP else [])
    return Registry(
        "recipe", "micromodels.recipes", GROUP, "RECIPE", lambda found: found.info.name, apart=("base", "manifest")
    )


def test_each_module_of_the_package_is_one_thing() -> None:
    """Built-in recipes and encoders are found by their files, and each calls itself what its file is called."""
    for found, package, apart in ((RECIPES, recipes, {"base", "manifest"}), (ENCODERS, encoders, set())):
        (folder,) = map(Path, package.__path__)
        files = {path.stem for path in folder.iterdir() if not path.name.startswith("__")}
        assert [thing.info.name for thing in found.all()] == sorted(files - apart)
    assert {"finetune", "head", "yolo"} <= set(BUILT_IN)


def test_entry_points_are_added_and_take_no_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that is built in stays what it is, with a warning."""
    found = with_entry_points(monkeypatch, thing=f"{__name__}:THING", head=f"{__name__}:THING")
    with caplog.at_level(logging.WARNING):
        assert found.names() == (*BUILT_IN, "thing")
    assert "'head'" in caplog.text
    assert found.get("thing").info is Thing.info
    assert found.get("head") is recipe("head")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("thing", "no_such_package.module:RECIPE", "ModuleNotFoundError"),
        ("thing", f"{__name__}:NOTHING", "AttributeError"),
        ("thing", f"{__name__}:FAILS", "it is broken"),
        ("other", f"{__name__}:THING", "not 'thing'"),
    ],
)
def test_what_cannot_be_used_is_left_out_of_lists(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, words: str
) -> None:
    """Asked for by name it is an error that says why; the others are as ever."""
    found = with_entry_points(monkeypatch, **{name: value})
    with caplog.at_level(logging.WARNING):
        assert [thing.info.name for thing in found.all()] == list(BUILT_IN)
    assert words in caplog.text
    with pytest.raises(InvalidInput, match=words) as refused:
        found.get(name)
    assert refused.value.field == "recipe"


def test_unknown_names_are_refused() -> None:
    """The error lists what there is."""
    with pytest.raises(InvalidInput, match=", ".join(BUILT_IN)):
        recipe("magic")


def test_missing_packages_are_found_without_importing() -> None:
    """By the name they are imported by."""
    assert missing_packages(("json", "no_such_package")) == ("no_such_package",)


def test_a_recipe_whose_package_is_missing_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is listed all the same, so that the error can explain."""
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    info = recipe("yolo").info
    assert info.missing == ("ultralytics", "lap")
    with pytest.raises(InvalidInput, match=r"ultralytics is not installed; pip install 'micromodels-video\[yolo\]'"):
        info.require_packages()


@pytest.mark.parametrize(("field", "value"), [("name", "auto"), ("name", ""), ("max_experiments", 33)])
def test_what_a_recipe_says_of_itself_is_checked(field: str, value: object) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInput) as refused:
        RecipeInfo(**{"name": "x", "title": "X", "description": "For tests.", field: value})  # type: ignore[arg-type]
    assert refused.value.field == field


def test_listing_everything_imports_nothing_heavy() -> None:
    """Neither torch nor numpy, nor a recipe's own packages: servers and help list recipes."""
    code = (
        "import sys; from micromodels.recipes.base import *; from micromodels.encoding.encoders import encoders;"
        "TrainSettings('head', 4, encoder='pixels+lite0'); TrainSettings('yolo');"
        "print(*[i.name for i in recipes()], len(encoders()));"
        "print({'torch', 'numpy', 'cv2', 'onnxruntime', 'ultralytics', 'safetensors'} & set(sys.modules) or 'light')"
    )
    repository = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [f"{' '.join(BUILT_IN)} {len(ENCODERS.names())}", "light"]
