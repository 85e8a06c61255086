"""A benchmark: planned runs, finished runs, their file, and the remaining time.

The file is rewritten after every run, so that an early end loses only the current run. A benchmark can be resumed
(``Benchmark.resume``), and files of several processes can be merged (``Benchmark.merge``).
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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.video import Video, open_video
from scripts.benchmark.annotation_cost import Strategy, run_annotation_cost
from scripts.benchmark.baselines import System
from scripts.benchmark.datasets import Clip
from scripts.benchmark.protocols import (
    PROTOCOL_SETS,
    SCORED_TOGETHER,
    SETS_ON_REQUEST,
    Outcome,
    Protocol,
    Row,
    SharedModels,
    run_protocol,
)
from scripts.benchmark.simulated_reviewers import FirstLabels, SimulatedReviewer
from scripts.benchmark.summaries import summarize

__all__ = ["Benchmark", "Job", "OnLabels", "Remaining", "part_of", "plan", "run_jobs"]

FORMAT = 2

OnLabels = Callable[[Clip, Video, Outcome], None]
"""Called with a clip, its open video and a run on it with its labels, which are not kept after that."""


@dataclass
class Benchmark:
    """The results so far.

    Attributes:
        arguments: the command line arguments.
        rows: one per run.
        skipped: skipped systems, where, and why.
        growth: results of ``--growth``.
        complete: whether all planned runs are done.
        start: date and time, UTC.
        commit: of the code, with ``+`` where it has uncommitted changes.
        machine: what it runs on.
        parts: of a merged benchmark, the headers of its files.
    """

    arguments: Mapping[str, object]
    rows: list[Row] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    growth: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    start: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: str = field(default_factory=lambda: _commit())
    machine: Mapping[str, Any] = field(default_factory=lambda: _machine())
    parts: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`read` reads it."""
        return {
            "format": FORMAT,
            **self._about(),
            "parts": self.parts,
            "summary": [summary.to_dict() for summary in summarize(self.rows)],
            "growth": self.growth,
            "skipped": self.skipped,
            "rows": [row.to_dict() for row in self.rows],
        }

    def _about(self) -> dict[str, Any]:
        return {
            "date": self.start,
            "commit": self.commit,
            "machine": dict(self.machine),
            "arguments": dict(self.arguments),
            "complete": self.complete,
        }

    def write(self, path: Path) -> None:
        """Replaces the file atomically. One line per row and summary, so that files are easy to read and compare."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        lines = []
        for name, value in self.to_dict().items():
            text = json.dumps(value)
            if isinstance(value, list) and value:
                text = "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
            lines.append(f"{json.dumps(name)}: {text}")
        part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Benchmark:
        """Read a benchmark that :meth:`write` wrote.

        Raises:
            FailedPrecondition: the file is missing, or has another format.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, not {FORMAT}")
            return cls(
                data["arguments"],
                [Row.from_dict(row) for row in data["rows"]],
                data["skipped"],
                data["growth"],
                data["complete"],
                data["date"],
                data["commit"],
                data["machine"],
                data["parts"],
            )
        except (OSError, ValueError, KeyError, TypeError, InvalidInput) as error:
            raise FailedPrecondition(f"{path}: not a file of this version of scripts/bench ({error})") from error

    def resume(self, path: Path) -> None:
        """Adopt the rows of a file; rows without a result are run again. No effect if the file is missing.

        Raises:
            FailedPrecondition: the file has rows of another commit, which must not be mixed with rows of this one.
        """
        if not path.exists():
            return
        before = Benchmark.read(path)
        others = {row.commit for row in before.rows} - {self.commit}
        if others:
            raise FailedPrecondition(
                f"{path} has rows of commit {', '.join(sorted(others))}, this is {self.commit}; choose another file"
            )
        self.rows = [row for row in before.rows if not row.error]
        self.growth, self.parts, self.start = before.growth, before.parts, before.start

    @classmethod
    def merge(cls, paths: Sequence[Path]) -> Benchmark:
        """Merge the rows of several files. For equal runs, the newest file's row counts, results before errors.

        Raises:
            FailedPrecondition: a file is not a benchmark.
        """
        members = sorted((cls.read(path) for path in paths), key=lambda bench: bench.start)
        newest = members[-1]
        rows: dict[tuple[str, str, str, str, int], Row] = {}
        for row in (row for bench in members for row in bench.rows):
            if not row.error or row.key not in rows:
                rows[row.key] = row
        skipped = [dict(pairs) for pairs in dict.fromkeys(tuple(s.items()) for b in members for s in b.skipped)]
        return cls(
            {"merge": [path.name for path in paths]},
            list(rows.values()),
            skipped,
            {key: value for bench in members for key, value in bench.growth.items()},
            all(bench.complete for bench in members),
            newest.start,
            newest.commit,
            newest.machine,
            [bench._about() for bench in members],
        )

    @property
    def failed(self) -> list[Row]:
        """Rows without a result."""
        return [row for row in self.rows if row.error]


def _commit() -> str:
    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--verify", "--quiet", "HEAD") + ("+" if git("status", "--porcelain") else "")


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
    torch = sys.modules.get("torch")  # loaded only if a system needed it
    return str(torch.cuda.get_device_name(0)) if torch is not None and torch.cuda.is_available() else ""


@dataclass(frozen=True, slots=True)
class Job:
    """One planned row. ``strategy`` is for protocol F, which starts from one seed."""

    protocol: Protocol
    clip: Clip
    system: System
    k: int
    strategy: Strategy | None = None

    @property
    def system_name(self) -> str:
        """The system's name in the row."""
        return f"{self.system.name}+{self.strategy}" if self.strategy else self.system.name

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Key of the planned row."""
        return self.protocol.value, self.clip.set_name, self.clip.name, self.system_name, self.k

    @property
    def group(self) -> tuple[Protocol, str, str, int, Strategy | None]:
        """Jobs of one group have the same seeds."""
        return self.protocol, self.clip.set_name, self.clip.name, self.k, self.strategy


def plan(
    protocols: Sequence[Protocol],
    clips: Sequence[Clip],
    systems: Sequence[System],
    ks: Sequence[int],
    strategies: Sequence[Strategy] = (),
    annotation_cost_systems: Sequence[System] | None = None,
) -> list[Job]:
    """The planned rows, in order: protocol, clip, k (or strategy), system.

    G summarizes the runs of A to D, which are therefore run if G is requested. For a system without suggestions,
    ``suggested`` and ``least_confident`` equal ``even``: only the first of these is run.

    Args:
        protocols: protocols to run.
        clips: clips to use, for protocols that include their set.
        systems: systems to run.
        ks: numbers of seed frames, A to E.
        strategies: of F.
        annotation_cost_systems: systems to run in F; None for ``systems``.
    """
    wanted = set(protocols) | (set(SCORED_TOGETHER) if Protocol.CALIBRATION in protocols else set())
    jobs: list[Job] = []
    for protocol in [p for p in Protocol if p in wanted and p is not Protocol.CALIBRATION]:
        sets = PROTOCOL_SETS[protocol] + SETS_ON_REQUEST.get(protocol, ())
        own = [clip for clip in clips if clip.set_name in sets]
        if protocol is Protocol.ANNOTATION_COST:
            players = systems if annotation_cost_systems is None else annotation_cost_systems
            jobs += [
                Job(protocol, clip, system, 1, strategy)
                for clip in own
                for strategy in strategies
                for system in players
                if strategy in _different(system, strategies)
            ]
        else:
            jobs += [Job(protocol, clip, system, k) for clip in own for k in ks for system in systems]
    return jobs


def _different(system: System, strategies: Sequence[Strategy]) -> list[Strategy]:
    if system.session_recipe:
        return list(strategies)
    same = [s for s in strategies if s in {Strategy.SUGGESTED, Strategy.LEAST_CONFIDENT, Strategy.EVEN}]
    return [s for s in strategies if s not in same[1:]]


def part_of(jobs: Sequence[Job], part: int, parts: int) -> list[Job]:
    """Every ``parts``-th group of jobs, for one of several parallel processes; ``part`` counts from 1.

    Raises:
        InvalidInput: ``part`` is not one of the parts.
    """
    if not 1 <= part <= parts:
        raise InvalidInput("part", f"{part}/{parts}", "I/N with I from 1 to N")
    groups = [list(members) for _, members in groupby(jobs, key=lambda job: job.group)]
    return [job for group in groups[part - 1 :: parts] for job in group]


class Remaining:
    """Estimates the remaining time by the seconds per frame that each system took so far.

    Args:
        rows: existing rows.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._frames: dict[str, int] = defaultdict(int)
        for row in rows:
            self.learn(row)

    def learn(self, row: Row) -> None:
        """Add a finished row."""
        if row.error or not row.frame_count:
            return
        for name in (row.system, ""):
            self._seconds[name] += row.seconds["total"]
            self._frames[name] += row.frame_count

    def seconds(self, jobs: Iterable[Job]) -> float:
        """Estimate for some jobs; a system without rows counts as the mean of the others."""
        total = 0.0
        for job in jobs:
            name = job.system_name if self._frames.get(job.system_name) else ""
            total += job.clip.frame_count * self._seconds[name] / max(1, self._frames[name])
        return total


def run_jobs(
    bench: Benchmark,
    jobs: Sequence[Job],
    *,
    out: Path | None,
    report: Callable[[Row, int, float], None],
    on_labels: Mapping[str, OnLabels] | None = None,
    service: Callable[[Clip, int], SimulatedReviewer] | None = None,
) -> None:
    """Run jobs one after another. A system that raises gets a row with the error, and the others continue.

    Args:
        bench: gets the rows; existing rows are not run again.
        jobs: jobs to run.
        out: file to update after every run.
        report: called with every new row, the number of remaining jobs, and an estimate of their seconds.
        on_labels: by name of the system, called after each of its runs; not for protocol F.
        service: for protocol F, creates a reviewer on a server instead of a label session in this process.

    Raises:
        KeyboardInterrupt: passed on; finished rows are in the file.
    """
    done = {row.key for row in bench.rows}
    left = [job for job in jobs if _runs(job, bench.skipped) and job.key not in done]
    remaining = Remaining(bench.rows)
    made = 0
    with FirstLabels() as first:
        for _, members in groupby(left, key=lambda job: job.group):
            with tempfile.TemporaryDirectory(prefix="micromodels-bench-") as folder:
                models = SharedModels()
                for job in members:
                    hook = (on_labels or {}).get(job.system.name)
                    row = replace(_run(job, Path(folder), models, hook, first, service), commit=bench.commit)
                    bench.rows.append(row)
                    remaining.learn(row)
                    made += 1
                    report(row, len(left) - made, remaining.seconds(left[made:]))
                    if out:
                        bench.write(out)
    bench.complete = True
    if out:
        bench.write(out)


def _runs(job: Job, skipped: list[dict[str, str]]) -> bool:
    """Whether a system can run a job; records why not."""
    why = job.system.lacking(job.clip, job.protocol is Protocol.FRAME_CLASSES)
    if not why:
        return True
    note = {
        "system": job.system.name,
        "protocol": job.protocol.value,
        "set_name": job.clip.set_name,
        "why": why,
    }
    if note not in skipped:
        skipped.append(note)
    return False


def _run(
    job: Job,
    folder: Path,
    models: SharedModels,
    on_labels: OnLabels | None,
    first: FirstLabels,
    service: Callable[[Clip, int], SimulatedReviewer] | None,
) -> Row:
    clip, system = job.clip, job.system
    cache = folder / (system.recipe or system.name)  # separate, because another system's cache would speed this one up
    cache.mkdir(exist_ok=True)
    try:
        with open_video(clip.source) as video:
            if job.strategy is not None:
                return run_annotation_cost(clip, video, system, job.strategy, first, service).row
            keep = on_labels is not None
            outcome = run_protocol(job.protocol, clip, video, system, job.k, cache, keep_results=keep, models=models)
            if on_labels is not None:
                on_labels(clip, video, outcome)
            return outcome.row
    except Exception as error:  # one failing system must not end the benchmark
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        return Row(job.protocol, clip.set_name, clip.name, job.system_name, job.k, (), 0, error=message)
    finally:
        gc.collect()
