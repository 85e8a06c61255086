"""Means over the sequences of each set; calibration and annotation cost are pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from scripts.benchmark.protocols import LOWER_IS_BETTER, MAIN_METRIC, SCORED_TOGETHER, Protocol, Row
from scripts.benchmark.scoring import calibration_scores, mean

__all__ = ["ALL_K", "ALL_SETS", "Summary", "summarize"]

ALL_SETS = "all"
ALL_K = 0
"""All k together, in protocol G."""
_MEAN_OVER_RUNS = ("ece", "brier", "aurc")


@dataclass(frozen=True)
class Summary:
    """Means over the sequences of a set (of all sets: ``"all"``, protocols F and G only).

    Attributes:
        k: number of seeds; 0: all together (protocol G only).
        scores: metric -> mean over the sequences that have it. Calibration (all labels) and annotation cost (all
        frames, all seconds) are pooled instead; in G, ``ece_mean`` and similar metrics are means over runs.
        worst: the sequence with the worst main metric, and that metric.
        failed: sequences without a result; the means leave them out.
    """

    protocol: Protocol
    set_name: str
    system: str
    k: int
    sequences: int
    scores: Mapping[str, float]
    worst: tuple[str, float] | None
    failed: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        out = asdict(self)
        out["scores"] = {key: round(value, 5) for key, value in self.scores.items()}
        return out


def summarize(rows: Iterable[Row]) -> list[Summary]:
    """One summary per protocol, set, system and k, in order of appearance; F also over all sets.

    G summarizes the runs of A to D of systems with a confidence: per set and k, over all sets, and over all k.
    """
    groups: dict[tuple[Protocol, str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.protocol, row.set_name, row.system, row.k), []).append(row)
        if row.protocol is Protocol.ANNOTATION_COST:
            groups.setdefault((row.protocol, ALL_SETS, row.system, row.k), []).append(row)
        if row.protocol in SCORED_TOGETHER and row.pairs:
            for set_name in (row.set_name, ALL_SETS):
                for k in (row.k, ALL_K):
                    groups.setdefault((Protocol.CALIBRATION, set_name, row.system, k), []).append(row)
    return [_summarize(key, members) for key, members in groups.items()]


def _summarize(key: tuple[Protocol, str, str, int], members: Sequence[Row]) -> Summary:
    protocol, set_name, system, k = key
    done = [row for row in members if not row.error]
    pooled = calibration_scores(pair for row in done for pair in row.pairs)
    if protocol is Protocol.CALIBRATION:
        means = {f"{name}_mean": mean(row.scores[name] for row in done) for name in _MEAN_OVER_RUNS}
        accepted = mean(good for row in done for _, good in row.pairs)
        scores = {**pooled, **means, "accepted": accepted, "labels": float(sum(len(row.pairs) for row in done))}
    else:
        names = dict.fromkeys(name for row in done for name in row.scores)
        scores = {name: mean(row.scores[name] for row in done if name in row.scores) for name in names} | pooled
    if done and protocol is Protocol.ANNOTATION_COST:
        scores |= _pooled_annotation_cost(done)
    if done:
        scores["seconds"] = mean(row.seconds["total"] for row in done)
    main = MAIN_METRIC[protocol]
    ranked = sorted((row.scores[main], row.sequence) for row in done if main in row.scores)
    worst = None
    if ranked:
        value, sequence = ranked[-1 if protocol in LOWER_IS_BETTER else 0]
        worst = (sequence, round(value, 5))
    failed = tuple(row.sequence for row in members if row.error)
    return Summary(protocol, set_name, system, k, len(done), scores, worst, failed)


def _pooled_annotation_cost(rows: Sequence[Row]) -> dict[str, float]:
    frames = sum(row.frame_count for row in rows)
    manual = sum(row.scores["seconds_manual"] for row in rows)
    return {
        "touched_97": sum(row.scores["touched_97"] * row.frame_count for row in rows) / frames,
        "touched_100": sum(row.scores["touched_100"] * row.frame_count for row in rows) / frames,
        "speed_up": manual / sum(row.scores["seconds_assisted"] for row in rows),
    }
