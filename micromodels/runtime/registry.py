"""Registries of extensions by name: recipes, encoders and others, each in its own file.

An extension is built in, as a module or folder of one of this project's packages, or comes from another installed
package by an entry point. Names are known without imports; an extension is imported when it is requested.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any, Generic, TypeVar

from micromodels.errors import InvalidInput

__all__ = ["Registry", "missing_packages"]

_LOG = logging.getLogger(__name__)


T = TypeVar("T")


def missing_packages(packages: Sequence[str]) -> tuple[str, ...]:
    """Those packages (by import name) that are not installed. Nothing is imported."""
    return tuple(package for package in packages if importlib.util.find_spec(package) is None)


class Registry(Generic[T]):
    """Extensions of one kind.

    Args:
        kind: name of the kind in errors, and of the field that selects one.
        package: package of the built-in ones, one module or folder each, named by the module.
        group: entry point group for others: ``NAME = "some_package.module:OBJECT"``.
        attribute: name of the object in a built-in module.
        name_of: gives the name that an object has for itself; raises an error if it is of another kind.
        apart: modules of the package that are not extensions.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        attribute: str,
        name_of: Callable[[T], str],
        apart: Collection[str] = (),
    ) -> None:
        self._kind, self._package, self._group = kind, package, group
        self._attribute, self._name_of, self._apart = attribute, name_of, frozenset(apart)
        self._sources: dict[str, Callable[[], Any]] | None = None
        self._loaded: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """All names: built-in ones, then those of other packages, each in alphabetical order."""
        return tuple(self._found())

    def get(self, name: str) -> T:
        """The extension of that name; imported at the first call.

        Raises:
            InvalidInput: the name is unknown, or its object cannot be imported.
        """
        if name in self._loaded:
            return self._loaded[name]
        sources = self._found()
        if name not in sources:
            raise InvalidInput(self._kind, name, ", ".join(sources))
        try:
            extension: T = sources[name]()
            own_name = self._name_of(extension)
        except Exception as error:
            # Any error of another package's import: report it for the requested name.
            problem = f"{type(error).__name__}: {error}"
            raise InvalidInput(self._kind, name, f"one that can be imported ({problem})") from error
        if own_name != name:
            raise InvalidInput(self._kind, name, f"one whose own name is the same, not {own_name!r}")
        self._loaded[name] = extension
        return extension

    def all(self) -> Iterator[T]:
        """All that can be imported, in order of names; others are skipped with a warning in the log."""
        for name in self.names():
            try:
                yield self.get(name)
            except InvalidInput as error:
                _LOG.warning("%s", error)

    def _found(self) -> dict[str, Callable[[], Any]]:
        if self._sources is None:
            sources: dict[str, Callable[[], Any]] = {}
            folders = importlib.import_module(self._package).__path__
            for name in sorted({module.name for module in pkgutil.iter_modules(folders)} - self._apart):
                sources[name] = partial(self._built_in, name)
            for entry in sorted(metadata.entry_points(group=self._group), key=lambda entry: entry.name):
                if entry.name in sources:
                    _LOG.warning("%s %r of %s is ignored: the name is taken", self._kind, entry.name, entry.value)
                else:
                    sources[entry.name] = entry.load
            self._sources = sources
        return self._sources

    def _built_in(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{self._package}.{name}"), self._attribute)
