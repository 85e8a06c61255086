"""``scripts/bench``: runs protocols over clips, systems and k, prints a table and writes a JSON file.

Clips are labelled one after another in this process; what a run caches goes when it ends. The JSON file is written anew
after every run, so an interrupted benchmark (Ctrl-C, exit code 130) leaves what it had. Exit codes: 0 done, 1 a system
failed on a clip or the quick mode found a regression, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from micromodels.errors import MicromodelsError
from micromodels.evaluation import quick as quick_mode
from micromodels.evaluation.datasets import Clip, data_root, load_clips
from micromodels.evaluation.economy import Strategy, run_economy
from micromodels.evaluation.peers import System, find_system
from micromodels.evaluation.pictures import draw_run, draw_summary
from micromodels.evaluation.protocols import PROTOCOL_SETS, Outcome, Protocol, Row, Summary, run_protocol, summarise
from micromodels.video import open_video

__all__ = ["Benchmark", "Job", "main", "plan", "print_tables", "run_jobs"]

FORMAT = 1
_COLUMNS: Mapping[Protocol, tuple[str, ...]] = {
    Protocol.MASKS: ("J", "F", "J_p10", "accepted", "ece"),
    Protocol.BOXES: ("iou", "recall_50", "absent_found", "false_absents", "accepted", "ece"),
    Protocol.MANY_OBJECTS: ("hota", "idf1", "id_switches", "recall_50", "iou", "ece"),
    Protocol.REGIONS: ("iou", "accepted", "ece"),
    Protocol.FRAME_CLASSES: ("balanced_accuracy", "f1"),
    Protocol.ECONOMY: (
        "touched_97",
        "touched_100",
        "reached_97",
        "speed_up",
        "wait",
        "correction_seconds",
        "first_change_seconds",
    ),
    Protocol.CALIBRATION: ("ece", "brier", "aurc", "accepted", "without_confidence"),
}


@dataclass
class Benchmark:
    """What has been run so far."""

    arguments: Mapping[str, object]
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    complete: bool = False
    start: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: Mapping[str, object] = field(default_factory=lambda: _commit())

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "format": FORMAT,
            "date": self.start,
            **self.commit,
            "machine": _machine(),
            "arguments": dict(self.arguments),
            "complete": self.complete,
            "summary": [summary.to_dict() for summary in summarise(self.outcomes)],
            "rows": [outcome.row.to_dict() for outcome in self.outcomes],
            "skipped": self.skipped,
        }

    def write(self, path: Path) -> None:
        """Replaces the file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @property
    def failed(self) -> list[Row]:
        """Rows without a result."""
        return [outcome.row for outcome in self.outcomes if outcome.row.error]


def _commit() -> dict[str, object]:
    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "commit": git("rev-parse", "--verify", "--quiet", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
    }


def _machine() -> dict[str, object]:
    packages = {}
    for name in ("torch", "onnxruntime-gpu", "onnxruntime", "opencv-python", "numpy", "av"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _gpu() -> str:
    torch = sys.modules.get("torch")  # loaded if a system needed it
    return str(torch.cuda.get_device_name(0)) if torch is not None and torch.cuda.is_available() else ""


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make. ``strategy`` is for protocol F, which starts from one seed."""

    protocol: Protocol
    clip: Clip
    system: System
    k: int
    strategy: Strategy | None = None


def plan(
    protocols: Sequence[Protocol],
    clips: Sequence[Clip],
    systems: Sequence[System],
    ks: Sequence[int],
    strategies: Sequence[Strategy] = (),
) -> list[Job]:
    """The rows to make, in order: protocol, clip, k (or strategy), system."""
    jobs: list[Job] = []
    for protocol in protocols:
        economy = protocol is Protocol.ECONOMY
        starts = [(1, strategy) for strategy in strategies] if economy else [(k, None) for k in ks]
        jobs += [
            Job(protocol, clip, system, k, strategy)
            for clip in clips
            if clip.set_name in PROTOCOL_SETS[protocol]
            for k, strategy in starts
            for system in systems
        ]
    return jobs


def run_jobs(
    bench: Benchmark, jobs: Sequence[Job], *, out: Path | None, pictures: Path | None, console: Console
) -> None:
    """Makes the rows one after another; a system that raises gets a row that says so and the rest goes on.

    Raises:
        KeyboardInterrupt: passed on; rows that were finished are in the file.
    """
    for number, job in enumerate(jobs, 1):
        lacking = job.system.lacking(job.clip, job.protocol is Protocol.FRAME_CLASSES)
        if lacking:
            skipped = {"system": job.system.name, "set_name": job.clip.set_name, "why": lacking}
            if skipped not in bench.skipped:
                bench.skipped.append(skipped)
            continue
        outcome = _run(job, pictures)
        bench.outcomes.append(outcome)
        console.print(f"[dim]{number}/{len(jobs)}[/] {_describe(outcome.row)}", highlight=False)
        if out:
            bench.write(out)
    bench.complete = True
    if out:
        bench.write(out)


def _run(job: Job, pictures: Path | None) -> Outcome:
    clip, system = job.clip, job.system
    with tempfile.TemporaryDirectory(prefix="micromodels-bench-") as cache:
        try:
            with open_video(clip.source) as video:
                if job.strategy is not None:
                    return run_economy(clip, video, system, job.strategy, Path(cache))
                keep = pictures is not None
                outcome = run_protocol(job.protocol, clip, video, system, job.k, Path(cache), keep_results=keep)
                if pictures is not None:
                    draw_run(pictures, clip, video, outcome)
                return replace(outcome, results=())
        except Exception as error:  # whatever a system does, the other rows count
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            name = f"{system.name}+{job.strategy}" if job.strategy else system.name
            return Outcome(Row(job.protocol, clip.set_name, clip.name, name, job.k, (), 0, error=message))
        finally:
            gc.collect()


def _describe(row: Row) -> str:
    head = f"{row.protocol} {row.set_name}/{row.sequence} k={row.k} {row.system}: "
    if row.error:
        return f"{head}[red]failed: {row.error}[/]"
    scores = "  ".join(f"{name} {row.scores[name]:.3f}" for name in _COLUMNS[row.protocol] if name in row.scores)
    notes = "".join(f"\n    [yellow]{note}[/]" for note in row.notes)
    return f"{head}{scores}  {row.seconds['total']:.1f} s  {row.peak_memory_mib:.0f} MiB{notes}"


def print_tables(bench: Benchmark, console: Console) -> None:
    """One table per protocol: means over the sequences of each set, and the worst sequence."""
    summaries = summarise(bench.outcomes)
    for protocol in dict.fromkeys(summary.protocol for summary in summaries):
        table = Table(title=f"Protocol {protocol}: {protocol.name.lower().replace('_', ' ')}", title_justify="left")
        columns = (*_COLUMNS[protocol], "seconds")
        for name in ("set", "k", "system", *columns, "worst", "n"):
            table.add_column(name, justify="left" if name in {"set", "system", "worst"} else "right")
        for summary in sorted((s for s in summaries if s.protocol is protocol), key=lambda s: (s.set_name, s.k)):
            table.add_row(*_cells(summary, columns))
        console.print(table)
    for skipped in bench.skipped:
        console.print(f"[dim]not run: {skipped['system']} on {skipped['set_name']}: {skipped['why']}[/]")
    for row in bench.failed:
        console.print(f"[red]failed: {_describe(row)}[/]")


def _cells(summary: Summary, columns: Sequence[str]) -> Iterator[str]:
    yield from (summary.set_name, str(summary.k), summary.system)
    yield from (f"{summary.scores[name]:.3f}" if name in summary.scores else "" for name in columns)
    yield f"{summary.worst[0]} {summary.worst[1]:.3f}" if summary.worst else ""
    yield str(summary.sequences) + (f" ({len(summary.failed)} failed)" if summary.failed else "")


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    protocol: Annotated[str, typer.Option(help="Letters of protocols, comma-separated: A,B,C,D,E,F,G.")] = "A",
    k: Annotated[str, typer.Option(help="Numbers of seed frames, comma-separated.")] = "1,3",
    sets: Annotated[str, typer.Option(help="Sets, comma-separated; default: all of the protocol.")] = "",
    sequences: Annotated[str, typer.Option(help="Names of sequences, comma-separated; default: all.")] = "",
    peers: Annotated[str, typer.Option(help="Systems, comma-separated.")] = "copy,linear,osvos,default",
    strategies: Annotated[
        str, typer.Option(help="Protocol F: suggested, least_confident, oracle, random, even.")
    ] = "suggested",
    out: Annotated[Path | None, typer.Option(help="JSON file to write; kept up to date after every run.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for overlays of the worst frames and plots.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few runs, compared with the committed baseline.")] = False,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="With --quick: write the baseline instead of comparing.")
    ] = False,
) -> None:
    """Measures labels on real video with ground truth (docs/evaluation.md). MICROMODELS_REAL_DATA names the data."""
    console = Console()
    arguments = {"protocol": protocol, "k": k, "sets": sets, "sequences": sequences, "peers": peers}
    bench = Benchmark({"quick": True} if quick else arguments)
    try:
        if quick:
            jobs = quick_jobs(data_root())
        else:
            protocols = [Protocol(letter.upper()) for letter in _listed(protocol)]
            wanted = _listed(sets) or [name for p in protocols for name in PROTOCOL_SETS[p]]
            jobs = plan(
                protocols,
                load_clips(data_root(), dict.fromkeys(wanted), _listed(sequences)),
                [find_system(name) for name in _listed(peers)],
                [int(number) for number in _listed(k)],
                [Strategy(name) for name in _listed(strategies)],
            )
        run_jobs(bench, jobs, out=out, pictures=pictures, console=console)
    except (MicromodelsError, ValueError) as error:
        console.print(f"[red]bench: {error}[/]")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print_tables(bench, console)
        console.print("interrupted" + (f"; what is finished is in {out}" if out else ""))
        raise typer.Exit(130) from None
    print_tables(bench, console)
    if pictures:
        draw_summary(pictures, bench.outcomes)
    complaints = check_quick(bench.outcomes, console, update=update_baseline) if quick else []
    raise typer.Exit(1 if bench.failed or complaints else 0)


def quick_jobs(root: Path) -> list[Job]:
    """The rows of the quick mode."""
    systems = [find_system(name) for name in quick_mode.SYSTEMS]
    clips = load_clips(root, quick_mode.SETS, quick_mode.SEQUENCES)
    return plan([Protocol.MASKS, Protocol.BOXES], clips, systems, [quick_mode.K])


def check_quick(outcomes: Sequence[Outcome], console: Console, *, update: bool) -> list[str]:
    """Compares with the baseline and prints what got worse, or writes it with ``update``."""
    found = quick_mode.main_scores(outcomes)
    if update:
        quick_mode.write_baseline(found)
        console.print(f"baseline written: {quick_mode.BASELINE}")
        return []
    complaints = quick_mode.compare(found, quick_mode.read_baseline())
    for complaint in complaints:
        console.print(f"[red]{complaint}[/]")
    if not complaints:
        console.print("no regression beyond noise")
    return complaints


if __name__ == "__main__":
    app()
