"""What can be added without touching this package: kinds of things by name, each in a file of its own.

A thing is built in, as a module or folder of one package of ours, or comes from another installed package by an entry
point. Names are known without importing anything; a thing is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any, Generic, Protocol, TypeVar

from micromodels.errors import InvalidInput

__all__ = ["Described", "Registry", "missing_packages"]

_LOG = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class Described(Protocol):
    """What a registry can hold: something that says its name."""

    @property
    def info(self) -> _Named:
        """Its description, with its ``name``."""
        ...


T = TypeVar("T", bound=Described)


def missing_packages(packages: Sequence[str]) -> tuple[str, ...]:
    """Those of some packages, by the names they are imported by, that are not installed; none is imported."""
    return tuple(package for package in packages if importlib.util.find_spec(package) is None)


class Registry(Generic[T]):
    """Things of one kind.

    Args:
        kind: what they are called in errors, and the field that asks for one.
        package: where those built in lie, one module or folder each, under the name of the module.
        group: the entry points that add others: ``NAME = "some_package.module:THING"``.
        attribute: of a built-in module, which holds the thing.
        apart: modules of the package that are no such things.
    """

    def __init__(self, kind: str, package: str, group: str, attribute: str, apart: Collection[str] = ()) -> None:
        self._kind, self._package, self._group = kind, package, group
        self._attribute, self._apart = attribute, frozenset(apart)
        self._sources: dict[str, Callable[[], Any]] | None = None
        self._loaded: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """The names of all: those built in, then those of other packages, each in the order of the alphabet."""
        return tuple(self._found())

    def get(self, name: str) -> T:
        """The thing of that name; imported at the first call.

        Raises:
            InvalidInput: the name is not known, or what it stands for cannot be imported.
        """
        if name in self._loaded:
            return self._loaded[name]
        found = self._found()
        if name not in found:
            raise InvalidInput(self._kind, name, ", ".join(found))
        try:
            thing: T = found[name]()
            own_name = thing.info.name
        except Exception as error:
            # Whatever another package raises while it is imported: the caller asked for it by this name.
            problem = f"{type(error).__name__}: {error}"
            raise InvalidInput(self._kind, name, f"one that can be imported ({problem})") from error
        if own_name != name:
            raise InvalidInput(self._kind, name, f"one that calls itself by this name, not {own_name!r}")
        self._loaded[name] = thing
        return thing

    def all(self) -> Iterator[T]:
        """All that can be imported, in the order of their names; what cannot is left out with a warning in the log."""
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
                    _LOG.warning("%s %r of %s is left out: the name is taken", self._kind, entry.name, entry.value)
                else:
                    sources[entry.name] = entry.load
            self._sources = sources
        return self._sources

    def _built_in(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{self._package}.{name}"), self._attribute)
