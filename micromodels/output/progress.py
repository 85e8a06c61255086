"""Progress bars in a terminal or a notebook, and plain lines elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn

from micromodels.runtime.run import (
    Event,
    ExperimentFinished,
    FlipBookPicture,
    PropagationProgress,
    TrainingProgress,
    Warned,
)

__all__ = ["MAX_PICTURES", "Display"]

MAX_PICTURES = 400
"""Most flip-book pictures to keep; beyond it every other step is dropped."""

Item = TypeVar("Item")

NOTEBOOK_WIDTH, NOTEBOOK_SECONDS = 100, 0.2
"""In a notebook: characters per line, and the minimum time between two updates of the bars."""
NOTEBOOK_FORMAT = '<pre style="line-height:normal;font-family:monospace">{code}</pre>'


class Display:
    """Shows events as progress and collects flip-book pictures; a context manager.

    Args:
        console: of standard error, so that standard output is left for results.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._notebook = _NotebookBars() if console.is_jupyter else None
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, int] = {}
        self._pictures: list[FlipBookPicture] = []
        self._kept: int | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._notebook is not None:
            self._notebook.draw(self._bars)

    @property
    def pictures(self) -> Sequence[FlipBookPicture]:
        """Flip-book pictures of the kept experiment; of all experiments if none was kept."""
        return [p for p in self._pictures if self._kept in (None, p.experiment)]

    def say(self, text: str) -> None:
        """Show a line above the bars."""
        self._console.print(f"[dim]·[/] {escape(text)}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Show a warning above the bars."""
        self._console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def on_event(self, event: Event) -> None:
        """Show an event; for `Run.on_event`."""
        if isinstance(event, TrainingProgress):
            name = "training"
            if event.experiments > 1:
                name += f" {event.experiment + 1} of {event.experiments}"
            details = f"{event.step}/{event.steps} · loss {event.loss:.3f} · {_left(event.eta_seconds)}"
            self.update(name, event.step, event.steps, details)
        elif isinstance(event, PropagationProgress):
            details = f"{event.frames_done}/{event.frames_total} frames · {_left(event.eta_seconds)}"
            self.update("labeling", event.frames_done, event.frames_total, details)
        elif isinstance(event, ExperimentFinished):
            self._experiment(event)
        elif isinstance(event, FlipBookPicture):
            self._keep(event)
        elif isinstance(event, Warned):
            self.warn(event.message)

    def update(self, name: str, done: int, total: int | None, details: str = "") -> None:
        """Update a bar, created on first use; without a terminal or notebook, print a line for every 10 %."""
        if not self._console.is_terminal and self._notebook is None:
            tenth = done * 10 // total if total else 0
            if tenth > self._said.get(name, -1):
                self._said[name] = tenth
                share = f"{tenth * 10:3d} % " if total else ""
                self._console.print(f"{escape(name)} {share}{escape(details)}".rstrip(), highlight=False)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), total=total, details="")
        self._bars.update(self._tasks[name], completed=done, total=total, details=escape(details))
        if self._notebook is not None and self._notebook.is_due():
            self._notebook.draw(self._bars)

    def forget(self, name: str) -> None:
        """Remove a bar, so that the next one of its name starts at zero."""
        self._said.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)

    def track(self, name: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Pass items through and update a bar."""
        self.update(name, 0, total)
        for done, item in enumerate(items, 1):
            yield item
            self.update(name, done, total, f"{done}/{total} frames")

    def _experiment(self, event: ExperimentFinished) -> None:
        score = "no score" if event.score is None else f"score {event.score:.3f}"
        settings = ", ".join(f"{key} {value}" for key, value in event.settings.items())
        kept = " · [green]kept[/]" if event.kept else ""
        text = f"[bold]experiment {event.experiment + 1}[/] · {score}{kept} · {event.seconds:.1f} s"
        self._console.print(f"[dim]·[/] {text} [dim]{escape(settings)}[/]", highlight=False, soft_wrap=True)
        if event.kept:
            self._kept = event.experiment

    def _keep(self, picture: FlipBookPicture) -> None:
        self._pictures.append(picture)
        if len(self._pictures) > MAX_PICTURES:
            steps = sorted({p.step for p in self._pictures})
            wanted = {steps[0], *steps[1:-1][1::2], steps[-1]}
            self._pictures = [p for p in self._pictures if p.step in wanted]


class _NotebookBars:
    """Progress bars below a notebook cell: one output that is redrawn, which needs only IPython."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = -NOTEBOOK_SECONDS

    def is_due(self) -> bool:
        """Whether the last update is old enough."""
        return time.monotonic() - self._drawn >= NOTEBOOK_SECONDS

    def draw(self, bars: Progress) -> None:
        """Redraw the bars."""
        from IPython.display import HTML, display  # available in every notebook, and only there

        self._drawn = time.monotonic()
        paper = Console(file=io.StringIO(), record=True, width=NOTEBOOK_WIDTH, force_jupyter=False)
        paper.print(bars.get_renderable())
        page = HTML(paper.export_html(inline_styles=True, code_format=NOTEBOOK_FORMAT))
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)


def _left(seconds: float) -> str:
    """Remaining time as text."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 120 else f"{minutes / 60:.1f} h left"
