"""Trifles in files of labels that are repaired, and what is left aside: counted, for one warning."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Repairs"]


@dataclass(slots=True)
class Repairs:
    """What the reading of one file has repaired or left aside, by kind, with the place of the first."""

    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """Count one more of a kind: ``what`` says in the plural what was done, ``where`` names the entry."""
        count, first = self._found.get(what, (0, where))
        self._found[what] = (count + 1, first)

    def summary(self, file_name: str) -> str | None:
        """One warning for all; None where nothing was repaired."""
        if not self._found:
            return None
        parts = [f"{what}: {count}, the first at {first}" for what, (count, first) in self._found.items()]
        return f"{file_name} was read with changes. {'; '.join(parts)}. Correct the file, or check these labels"
