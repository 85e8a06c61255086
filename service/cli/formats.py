"""Help of commands that read or write labels: lists the formats, which are looked up only when help is shown."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.markup import escape
from typer.core import TyperCommand

__all__ = ["ReadsLabels", "WritesLabels"]


class ReadsLabels(TyperCommand):
    """A command that reads labels; its help lists the formats."""

    heading: ClassVar[str] = "Readable label formats:"

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, with the formats after the command's text."""
        own = self.help
        self.help = "\n\n".join([own or "", self.heading, "\n".join(escape(line) for line in self.lines())])
        try:
            super().format_help(ctx, formatter)
        finally:
            self.help = own

    def lines(self) -> list[str]:
        """One line per format."""
        from micromodels.labels.formats import label_formats

        return [str(one) for one in label_formats() if one.can_read]


class WritesLabels(ReadsLabels):
    """A command that writes labels; its help lists the formats, and what each of them loses."""

    heading = "Formats, and what each of them loses:"

    def lines(self) -> list[str]:
        """One line per format."""
        from micromodels.labels.formats import label_formats

        uses = {(True, True): "", (True, False): " Read only.", (False, True): " Written only."}
        return [
            f"{one}: {one.loses or 'nothing is lost.'}{uses[one.can_read, one.can_write]}" for one in label_formats()
        ]
