"""Tables of a benchmark: for a terminal, and as Markdown for docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmark.baselines import BASELINES
from scripts.benchmark.benchmark import Benchmark
from scripts.benchmark.protocols import LOWER_IS_BETTER, MAIN_METRIC, Protocol, Row
from scripts.benchmark.summaries import ALL_K, ALL_SETS, Summary, summarize

__all__ = ["as_markdown", "describe_row", "growth_tables", "print_tables"]

_COLUMNS: Mapping[Protocol, tuple[str, ...]] = {
    Protocol.MASKS: ("J", "F", "J_p10", "accepted", "ece"),
    Protocol.BOXES: ("iou", "recall_50", "absent_found", "false_absents", "accepted", "ece"),
    Protocol.MANY_OBJECTS: ("hota", "idf1", "id_switches", "recall_50", "iou", "ece"),
    Protocol.REGIONS: ("iou", "accepted", "ece"),
    Protocol.FRAME_CLASSES: ("balanced_accuracy", "f1"),
    Protocol.ANNOTATION_COST: (
        "touched_97",
        "touched_100",
        "reached_97",
        "speed_up",
        "wait",
        "correction_seconds",
        "first_change_seconds",
    ),
    Protocol.CALIBRATION: (
        "ece",
        "ece_mean",
        "brier",
        "brier_mean",
        "aurc",
        "accepted",
        "without_confidence",
        "labels",
    ),
}
_CELLS: Mapping[Protocol, tuple[tuple[str, str], ...]] = {
    Protocol.MASKS: (("J", "J"), ("F", "F")),
    Protocol.BOXES: (
        ("iou", "IoU"),
        ("recall_50", "recall"),
        ("absent_found", "absent found"),
        ("false_absents", "false absents"),
    ),
    Protocol.MANY_OBJECTS: (("hota", "HOTA"), ("idf1", "IDF1"), ("id_switches", "switches")),
    Protocol.REGIONS: (("iou", "mean IoU"),),
    Protocol.FRAME_CLASSES: (("balanced_accuracy", "balanced accuracy"), ("f1", "F1")),
    Protocol.CALIBRATION: (("ece", "ECE"), ("brier", "Brier"), ("aurc", "AURC")),
}
"""Metrics in the cells of the Markdown tables, and their titles."""
_TITLES: Mapping[Protocol, str] = {
    Protocol.MASKS: "Masks",
    Protocol.BOXES: "Boxes",
    Protocol.MANY_OBJECTS: "Many objects",
    Protocol.REGIONS: "Regions",
    Protocol.FRAME_CLASSES: "Classes of frames",
    Protocol.ANNOTATION_COST: "Annotation cost of correction",
    Protocol.CALIBRATION: "Calibration",
}
_COUNTS = frozenset({"id_switches", "labels", "seconds", "wait"})
_STAGES = ("decode", "encode", "views", "train", "predict", "temporal")
_UNDER_TEST = "default"


def describe_row(row: Row) -> str:
    """One line with the scores of a run, in rich's markup, and one line per note."""
    head = f"{row.protocol} {row.set_name}/{row.sequence} k={row.k} {row.system}: "
    if row.error:
        return f"{head}[red]failed: {row.error}[/]"
    scores = "  ".join(f"{name} {row.scores[name]:.3f}" for name in _COLUMNS[row.protocol] if name in row.scores)
    notes = "".join(f"\n    [yellow]{note}[/]" for note in row.notes)
    return f"{head}{scores}  {row.seconds['total']:.1f} s  {row.peak_memory_mib:.0f} MiB{notes}"


def print_tables(bench: Benchmark, console: Console) -> None:
    """One table per protocol: means over the sequences of each set, and the worst sequence."""
    summaries = summarize(bench.rows)
    for protocol in Protocol:
        own = sorted((s for s in summaries if s.protocol is protocol), key=lambda s: (s.set_name, s.k))
        if not own:
            continue
        table = Table(title=f"Protocol {protocol}: {protocol.name.lower().replace('_', ' ')}", title_justify="left")
        columns = (*_COLUMNS[protocol], "seconds")
        for name in ("set", "k", "system", *columns, "worst", "n"):
            table.add_column(name, justify="left" if name in {"set", "system", "worst"} else "right")
        for summary in own:
            table.add_row(*_cells(summary, columns))
        console.print(table)
    for lines in growth_tables(bench.growth):
        console.print("\n".join(lines), highlight=False, markup=False)
    for line in _left_out(bench.skipped):
        console.print(f"[dim]not run: {line}[/]")
    for row in bench.failed:
        console.print(f"[red]failed: {describe_row(row)}[/]")


def _cells(summary: Summary, columns: Sequence[str]) -> Iterator[str]:
    yield from (summary.set_name, _k(summary.k), summary.system)
    yield from (f"{summary.scores[name]:.3f}" if name in summary.scores else "" for name in columns)
    yield f"{summary.worst[0]} {summary.worst[1]:.3f}" if summary.worst else ""
    yield str(summary.sequences) + (f" ({len(summary.failed)} failed)" if summary.failed else "")


def _k(k: int) -> str:
    return "all" if k == ALL_K else str(k)


def _left_out(skipped: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """One line per system and reason, with its protocols and sets."""
    where: dict[tuple[str, str], list[str]] = {}
    for note in skipped:
        where.setdefault((note["system"], note["why"]), []).append(f"{note['protocol']} {note['set_name']}")
    for (system, why), places in where.items():
        yield f"{system} on {', '.join(dict.fromkeys(places))}: {why}"


def as_markdown(bench: Benchmark) -> str:
    """All results: tables per protocol and sequence, times, growth, runs with a better baseline, skipped runs."""
    summaries = summarize(bench.rows)
    blocks = [_heading(bench)]
    for protocol in Protocol:
        own = [summary for summary in summaries if summary.protocol is protocol]
        if own:
            lines = _annotation_cost(own) if protocol is Protocol.ANNOTATION_COST else _protocol(protocol, own)
            blocks.append("\n".join(lines))
    blocks += ["\n".join(lines) for lines in (_by_sequence(bench.rows), _times(bench.rows)) if lines]
    blocks += ["\n".join(lines) for lines in growth_tables(bench.growth)]
    better = list(_baselines_ahead(bench.rows))
    if better:
        blocks.append(
            "\n".join(["**Where a baseline is better than micromodels**", "", *(f"- {line}" for line in better)])
        )
    missing = [f"- {line}" for line in _left_out(bench.skipped)]
    missing += [f"- failed: {row.system} on {row.protocol} {row.set_name}/{row.sequence}" for row in bench.failed]
    if missing:
        blocks.append("\n".join(["**Not run**", "", *missing]))
    return "\n\n".join(blocks) + "\n"


def _heading(bench: Benchmark) -> str:
    commits = dict.fromkeys(row.commit for row in bench.rows) or {bench.commit: None}
    named = ", ".join(commit[:12] + (" with uncommitted changes" if commit.endswith("+") else "") for commit in commits)
    machine = bench.machine
    device = machine["gpu"] or f"{machine['cores']} CPU cores"
    unfinished = "" if bench.complete else " Not complete: the run was stopped early."
    return f"Measured on {bench.start[:10]}, commit {named}, {device}, {machine['memory_gib']:.0f} GiB.{unfinished}"


def _protocol(protocol: Protocol, summaries: Sequence[Summary]) -> list[str]:
    """Rows are systems, columns sets and k; the best main score of a column is bold."""
    if protocol is Protocol.CALIBRATION:
        summaries = sorted(summaries, key=lambda s: (s.set_name != ALL_SETS, s.set_name, s.k))
    else:
        summaries = sorted(summaries, key=lambda s: s.k)
    columns = list(dict.fromkeys((s.set_name, s.k) for s in sorted(summaries, key=lambda s: s.set_name != ALL_SETS)))
    columns.sort(key=lambda column: [s.set_name for s in summaries].index(column[0]))
    cells = {(s.system, s.set_name, s.k): s for s in summaries}
    best = {column: _best(protocol, [s for s in summaries if (s.set_name, s.k) == column]) for column in columns}
    present = {name for s in summaries for name in s.scores}
    title = " / ".join(word for name, word in _CELLS[protocol] if name in present)
    lines = [f"**{protocol} {_TITLES[protocol]}**: {title}", ""]
    lines.append("| | " + " | ".join(f"{set_name} k={_k(k)}" for set_name, k in columns) + " |")
    lines.append("|---" * (len(columns) + 1) + "|")
    for system in _in_order(s.system for s in summaries):
        row = [_cell(protocol, cells.get((system, *column)), best[column]) for column in columns]
        lines.append(f"| {_title(system)} | " + " | ".join(row) + " |")
    return lines


def _best(protocol: Protocol, summaries: Sequence[Summary]) -> float:
    values = [s.scores[MAIN_METRIC[protocol]] for s in summaries if MAIN_METRIC[protocol] in s.scores]
    choose = min if protocol in LOWER_IS_BETTER else max
    return choose(values, default=float("nan"))


def _cell(protocol: Protocol, summary: Summary | None, best: float) -> str:
    if summary is None:
        return ""
    values = [_number(name, summary.scores[name]) for name, _ in _CELLS[protocol] if name in summary.scores]
    if values and _number("", summary.scores.get(MAIN_METRIC[protocol], -1.0)) == _number("", best):
        values[0] = f"**{values[0]}**"
    return " / ".join(values) + (f" ({len(summary.failed)} failed)" if summary.failed else "")


def _number(name: str, value: float) -> str:
    if name in _COUNTS:
        return f"{value:.0f}"
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.2f}"


def _in_order(systems: Iterable[str]) -> list[str]:
    """The library first, then in the order of the baselines, then by name."""
    names = [_UNDER_TEST, *(name for name in BASELINES if name != _UNDER_TEST)]
    return sorted(set(systems), key=lambda s: (names.index(s) if s in names else len(names), s))


def _title(system: str) -> str:
    name, _, strategy = system.partition("+")
    title = (BASELINES[name].title if name in BASELINES else "") or name
    title = f"**{title}**" if name == _UNDER_TEST else title
    return f"{title}, {strategy.replace('_', ' ')}" if strategy else title


def _annotation_cost(summaries: Sequence[Summary]) -> list[str]:
    sets = [ALL_SETS, *dict.fromkeys(s.set_name for s in summaries if s.set_name != ALL_SETS)]
    lines = [
        "**F Annotation cost of correction**: frames drawn until 97 % / 100 % of the rest are accepted, speed-up",
        "",
    ]
    lines += ["| | " + " | ".join(sets) + " | seconds per correction |", "|---" * (len(sets) + 2) + "|"]
    for system in _in_order(s.system for s in summaries):
        own = {s.set_name: s.scores for s in summaries if s.system == system}
        row = [
            f"{own[name]['touched_97']:.1%} / {own[name]['touched_100']:.1%}, {own[name]['speed_up']:.1f}x"
            if name in own and "touched_97" in own[name]
            else ""
            for name in sets
        ]
        wait = own.get(ALL_SETS, {}).get("correction_seconds")
        lines.append(f"| {_title(system)} | " + " | ".join(row) + f" | {'' if wait is None else f'{wait:.1f}'} |")
    return lines


def _by_sequence(rows: Sequence[Row]) -> list[str]:
    """The main score of the library on every sequence."""
    own = [row for row in rows if row.system == _UNDER_TEST and not row.error]
    if not own:
        return []
    ks = sorted({row.k for row in own})
    found = {
        (row.protocol, row.set_name, row.sequence, row.k): row.scores.get(MAIN_METRIC[row.protocol]) for row in own
    }
    lines = ["**micromodels by sequence**", "", "| | " + " | ".join(f"k={k}" for k in ks) + " |"]
    lines.append("|---" * (len(ks) + 1) + "|")
    for protocol, set_name, sequence in dict.fromkeys(key[:3] for key in found):
        values = [found.get((protocol, set_name, sequence, k)) for k in ks]
        cells = " | ".join("" if value is None else _number("", value) for value in values)
        lines.append(f"| {protocol} {set_name}/{sequence}, {MAIN_METRIC[protocol].replace('_', ' ')} | {cells} |")
    return lines


def _times(rows: Sequence[Row]) -> list[str]:
    """Seconds of the library to the first and last label and in each stage, and memory; means over sequences."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.system == _UNDER_TEST and not row.error and row.protocol is not Protocol.FRAME_CLASSES:
            groups.setdefault((row.set_name, row.k), []).append(row)
    if not groups:
        return []
    names = ("first_label", "total", *_STAGES)
    titles = ("first label", "all labels", *_STAGES)
    lines = ["**Seconds of micromodels** (means over clips; stages overlap, so they add up to more) **and memory**", ""]
    lines.append("| | frames | " + " | ".join(titles) + " | peak MiB |")
    lines.append("|---" * (len(names) + 3) + "|")
    for (set_name, k), members in sorted(groups.items()):
        means = [sum(row.seconds.get(name, 0.0) for row in members) / len(members) for name in names]
        frames = sum(row.frame_count for row in members) / len(members)
        peak = max(row.peak_memory_mib for row in members)
        cells = " | ".join(f"{value:.1f}" for value in means)
        lines.append(f"| {set_name} k={k} | {frames:.0f} | {cells} | {peak:.0f} |")
    return lines


def _baselines_ahead(rows: Sequence[Row]) -> Iterator[str]:
    """Runs in which a baseline has a better main score than the library."""
    compared = [row for row in rows if not row.error and row.protocol is not Protocol.ANNOTATION_COST]
    ours = {(*row.key[:3], row.k): row for row in compared if row.system == _UNDER_TEST}
    for row in compared:
        own, main = ours.get((*row.key[:3], row.k)), MAIN_METRIC[row.protocol]
        if own is None or row is own or main not in row.scores or main not in own.scores:
            continue
        if row.scores[main] > own.scores[main]:
            yield (
                f"{row.protocol} {row.set_name}/{row.sequence} k={row.k}: {_title(row.system)} "
                f"{_number('', row.scores[main])}, micromodels {_number('', own.scores[main])}"
            )


def growth_tables(growth: Mapping[str, Any]) -> list[list[str]]:
    """Results of ``--growth`` as Markdown tables; empty without results."""
    tables = []
    if growth.get("lengths"):
        first = growth["lengths"][0]
        size = f"{first['width_px']}x{first['height_px']}"
        lines = [f"**Growth with the length of the video** ({growth['clip']}, {size}, trained beforehand)", ""]
        lines += ["| frames | seconds per frame | first label after | all labels after | peak MiB |", "|---" * 5 + "|"]
        lines += [
            f"| {p['frames']} | {p['seconds_per_frame']:.4f} | {p['first_label_seconds']:.1f} s | {p['seconds']:.0f} s "
            f"| {p['peak_mib']:.0f} |"
            for p in growth["lengths"]
        ]
        tables.append(lines)
    if growth.get("objects"):
        first = growth["objects"][0]
        lines = [f"**Growth with the number of objects** ({first['frames']} frames of {first['width_px']} px)", ""]
        lines += ["| objects | drawn as | seconds per frame | peak MiB labeling | training |", "|---" * 5 + "|"]
        lines += [
            f"| {p['objects']} | {p['kind']} | {p['seconds_per_frame']:.3f} | {p['peak_mib']:.0f} "
            f"| {p['train_peak_mib']:.0f} |"
            for p in growth["objects"]
        ]
        tables.append(lines)
    if growth.get("limit"):
        limit = growth["limit"]
        tables.append(
            [
                f"**Against the limit** ({growth['clip']}): {limit['frames']} frames decoded and encoded in "
                f"{limit['encoding_seconds']:.1f} s; decoded, encoded and labeled in {limit['seconds']:.1f} s: "
                f"throughput {limit['ratio']:.2f} of the limit."
            ]
        )
    return tables
