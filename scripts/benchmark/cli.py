"""``scripts/bench``: runs protocols over clips, systems and k, prints tables, writes JSON, Markdown and pictures.

Clips are labeled one after another in this process; caches of a run are deleted when it ends. The JSON file is
rewritten after every run, so an interrupted benchmark (Ctrl-C, exit code 130) keeps its rows, and ``--resume``
continues it. Exit codes: 0 done, 1 a system failed on a clip or the quick mode found a regression, 2 wrong arguments,
130 interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from micromodels.errors import InvalidInput, MicromodelsError
from scripts.benchmark import regression_gate as quick_mode
from scripts.benchmark.annotation_cost import DRAW_SECONDS, Strategy
from scripts.benchmark.baselines import BASELINES, find_system
from scripts.benchmark.benchmark import Benchmark, Job, OnLabels, part_of, plan, run_jobs
from scripts.benchmark.datasets import Clip, data_root, load_clips
from scripts.benchmark.figures import draw_plots, draw_worst
from scripts.benchmark.protocols import PROTOCOL_SETS, Protocol, Row
from scripts.benchmark.scaling import LENGTHS, OBJECTS, measure_growth
from scripts.benchmark.simulated_reviewers import SimulatedReviewer
from scripts.benchmark.tables import as_markdown, describe_row, print_tables

__all__ = ["main"]

LONGEST_DRAWING_SECONDS = 15.0
"""Share of the time to draw a frame that the benchmark waits for a server; more would take days."""
EVERY_BASELINE = "all"
_NOT_IN_ALL = ("head", "finetune")
"""One is the current default, the other is for GPUs."""
_ANNOTATION_COST_BASELINES = ("linear", "default")
"""Default systems of protocol F: others would label the video again after every drawing."""


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where results go."""

    out: Path | None
    markdown: Path | None
    pictures: Path | None

    def finish(self, bench: Benchmark, console: Console) -> None:
        """Prints and writes the final results."""
        print_tables(bench, console)
        if self.out:
            bench.write(self.out)
        if self.markdown:
            self.markdown.parent.mkdir(parents=True, exist_ok=True)
            self.markdown.write_text(as_markdown(bench), encoding="utf-8")
        if self.pictures:
            draw_plots(self.pictures, bench)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    files: Annotated[list[Path] | None, typer.Argument(help="With --merge: JSON files of earlier runs.")] = None,
    protocol: Annotated[str, typer.Option(help="Letters of protocols, comma-separated.")] = "A,B,C,D,E,F,G",
    k: Annotated[str, typer.Option(help="Numbers of seed frames, comma-separated.")] = "1,3,5",
    sets: Annotated[str, typer.Option(help="Sets, comma-separated; default: all of the protocol.")] = "",
    sequences: Annotated[str, typer.Option(help="Names of sequences, comma-separated; default: all.")] = "",
    baselines: Annotated[
        str, typer.Option(help="Systems, comma-separated; for 'all', F runs linear,default.")
    ] = EVERY_BASELINE,
    strategies: Annotated[
        str, typer.Option(help="Protocol F: suggested, least_confident, oracle, random, even.")
    ] = "suggested,oracle,random,even",
    service: Annotated[
        str, typer.Option(help="Protocol F over gRPC: address of a server that can read the data folder.")
    ] = "",
    part: Annotated[str, typer.Option(help="I/N: the I-th of N parts, for parallel processes.")] = "1/1",
    out: Annotated[Path | None, typer.Option(help="JSON file to write; updated after every run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --out; its rows are not run again.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Run nothing: merge the FILES of earlier runs.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="File for the tables as Markdown.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for overlays of the worst frames and plots.")] = None,
    growth: Annotated[bool, typer.Option("--growth", help="Measure time and memory by length and objects.")] = False,
    lengths: Annotated[str, typer.Option(help="With --growth: numbers of frames.")] = ",".join(map(str, LENGTHS)),
    objects: Annotated[str, typer.Option(help="With --growth: numbers of objects.")] = ",".join(map(str, OBJECTS)),
    quick: Annotated[bool, typer.Option("--quick", help="A few runs, compared with the committed baseline.")] = False,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="With --quick: write the baseline instead of comparing.")
    ] = False,
) -> None:
    """Measures labels on real video with ground truth. MICROMODELS_REAL_DATA names the data.

    docs/explanation/evaluation.md describes the protocols.
    """
    console, places = Console(), _Places(out, markdown, pictures)
    asked = {"protocol": protocol, "k": k, "sets": sets, "sequences": sequences, "baselines": baselines, "part": part}
    asked |= {"strategies": strategies} | ({"quick": "yes"} if quick else {})
    asked |= {"service": service} if service else {}
    asked |= {"lengths": lengths, "objects": objects} if growth else {}
    bench = Benchmark(asked)
    try:
        if bool(files) != merge:
            raise InvalidInput("files", [str(path) for path in files or ()], "files with --merge, none without it")
        if merge:
            bench = Benchmark.merge(files or [])
        elif resume:
            bench.resume(_named(out))
        if growth:
            _grow(bench, asked, out, console)
        elif not merge:
            jobs = quick_jobs(data_root()) if quick else _jobs(asked)
            drawn = {} if pictures is None else _drawn(jobs, pictures)
            run_jobs(bench, jobs, out=out, report=_reporter(console), on_labels=drawn, service=_reviewer(service))
    except (MicromodelsError, ValueError) as error:
        console.print(f"[red]bench: {error}[/]")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        places.finish(bench, console)
        console.print("interrupted" + (f"; finished runs are in {out}" if out else ""))
        raise typer.Exit(130) from None
    places.finish(bench, console)
    complaints = check_quick(bench.rows, console, update=update_baseline) if quick else []
    raise typer.Exit(1 if bench.failed or complaints else 0)


def _drawn(jobs: Iterable[Job], folder: Path) -> Mapping[str, OnLabels]:
    """Functions that draw the worst frames of the default, or of every system if the default is not run."""
    names = {job.system.name for job in jobs}
    return dict.fromkeys({"default"} & names or names, partial(draw_worst, folder))


def _reviewer(address: str) -> Callable[[Clip, int], SimulatedReviewer] | None:
    """Creates reviewers on a server for protocol F; None for sessions in this process."""
    if not address:
        return None
    from scripts.benchmark.grpc_reviewer import GrpcReviewer  # imported here because only this needs gRPC

    def open_reviewer(clip: Clip, retrain_corrections: int) -> SimulatedReviewer:
        drawing_seconds = min(DRAW_SECONDS[clip.kind], LONGEST_DRAWING_SECONDS)
        return GrpcReviewer(clip, address, retrain_corrections, drawing_seconds)

    return open_reviewer


def _named(out: Path | None) -> Path:
    if out is None:
        raise InvalidInput("out", None, "a file, because --resume is given")
    return out


def _jobs(asked: Mapping[str, str]) -> list[Job]:
    """The jobs of the arguments."""
    protocols = [Protocol(letter.upper()) for letter in _listed(asked["protocol"])]
    wanted = _listed(asked["sets"]) or [name for protocol in protocols for name in PROTOCOL_SETS[protocol]]
    every = asked["baselines"] == EVERY_BASELINE
    named = [name for name in BASELINES if name not in _NOT_IN_ALL] if every else _listed(asked["baselines"])
    jobs = plan(
        protocols,
        load_clips(data_root(), dict.fromkeys(wanted), _listed(asked["sequences"])),
        [find_system(name) for name in named],
        [int(number) for number in _listed(asked["k"])],
        [Strategy(name) for name in _listed(asked["strategies"])],
        [find_system(name) for name in _ANNOTATION_COST_BASELINES] if every else None,
    )
    part, _, parts = asked["part"].partition("/")
    return part_of(jobs, int(part), int(parts))


def _grow(bench: Benchmark, asked: Mapping[str, str], out: Path | None, console: Console) -> None:
    """Measures growth on the first of the requested clips."""
    numbers = [[int(number) for number in _listed(asked[name])] for name in ("lengths", "objects")]
    clips = load_clips(data_root(), _listed(asked["sets"]) or ["davis2016"], _listed(asked["sequences"]))

    def report(kind: str, point: Mapping[str, Any]) -> None:
        numbers_text = "  ".join(f"{name} {value}" for name, value in point.items())
        console.print(f"growth, {kind}: {numbers_text}", highlight=False)
        if out:
            bench.write(out)

    measure_growth(clips[0], numbers[0], numbers[1], report, bench.growth)
    bench.complete = True


def _reporter(console: Console) -> Callable[[Row, int, float], None]:
    """Prints a line for every finished row."""

    def report(row: Row, left: int, seconds: float) -> None:
        rest = f"{left} left, about {seconds / 60:.0f} min" if left else "last"
        console.print(f"[dim]{rest}:[/] {describe_row(row)}", highlight=False)

    return report


def quick_jobs(root: Path) -> list[Job]:
    """The rows of the quick mode."""
    systems = [find_system(name) for name in quick_mode.SYSTEMS]
    clips = load_clips(root, quick_mode.SETS, quick_mode.SEQUENCES)
    return plan([Protocol.MASKS, Protocol.BOXES], clips, systems, [quick_mode.K])


def check_quick(rows: Iterable[Row], console: Console, *, update: bool) -> list[str]:
    """Compares with the baseline and prints regressions, or writes it with ``update``."""
    found = quick_mode.main_scores(rows)
    if update:
        quick_mode.write_baseline(found)
        console.print(f"baseline written: {quick_mode.REGRESSION_BASELINE}")
        return []
    complaints = quick_mode.compare(found, quick_mode.read_baseline())
    for complaint in complaints:
        console.print(f"[red]{complaint}[/]")
    if not complaints:
        console.print("no regression beyond noise")
    return complaints


if __name__ == "__main__":
    app()
