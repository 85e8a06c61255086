"""``scripts/bench --quick``: a few runs under four minutes on two cores, compared with a committed baseline.

Its purpose is to notice regressions, not to measure. A score may fall by its system's margin: training is not exactly
reproducible, while deterministic baselines must give the same numbers on any machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.benchmark.protocols import MAIN_METRIC, Row

__all__ = [
    "REGRESSION_BASELINE",
    "SEQUENCES",
    "SETS",
    "SYSTEMS",
    "K",
    "compare",
    "main_scores",
    "read_baseline",
    "write_baseline",
]

REGRESSION_BASELINE = Path(__file__).with_name("regression_baseline.json")
K = 3
SETS = ("davis2016", "otb")
SEQUENCES = ("libby", "motocross-jump", "Crossing")
SYSTEMS = ("copy", "linear", "osvos", "default")
TRAINED = "default"
TRAINED_MARGIN = 0.03
"""Allowed decrease of the trained system; repeated runs of one commit differ by about .01."""
BASELINE_MARGIN = 0.002
"""Allowed change of a baseline; a larger one means that the data, the seeds or a metric changed."""


def main_scores(rows: Iterable[Row]) -> dict[str, float]:
    """The main metric of every row with a result, by ``set/sequence k=K system``."""
    done = [row for row in rows if not row.error]
    return {f"{r.set_name}/{r.sequence} k={r.k} {r.system}": r.scores[MAIN_METRIC[r.protocol]] for r in done}


def read_baseline() -> dict[str, float]:
    """The committed scores."""
    baseline: dict[str, float] = json.loads(REGRESSION_BASELINE.read_text(encoding="utf-8"))
    return baseline


def write_baseline(found: Mapping[str, float]) -> None:
    """Replaces the committed scores."""
    rounded = {key: round(value, 4) for key, value in found.items()}
    REGRESSION_BASELINE.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def compare(found: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Differences from the baseline beyond noise, and scores on one side only; empty if none."""
    complaints = [f"{key}: no result, baseline {value:.3f}" for key, value in baseline.items() if key not in found]
    for key, value in found.items():
        if key not in baseline:
            complaints.append(f"{key}: {value:.3f}, no baseline; write one with --quick --update-baseline")
            continue
        fall = baseline[key] - value
        trained = key.endswith(f" {TRAINED}")
        if fall > TRAINED_MARGIN if trained else abs(fall) > BASELINE_MARGIN:
            margin = TRAINED_MARGIN if trained else BASELINE_MARGIN
            complaints.append(f"{key}: {value:.3f}, baseline {baseline[key]:.3f}, allowed difference {margin}")
    return complaints
