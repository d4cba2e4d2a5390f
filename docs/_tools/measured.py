"""Measured numbers of heads, read from the results of the toy study and the zoo."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from genpolicy.listing import recipe_rows
from genpolicy.registry import HEADS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
DENSITIES = ("grid", "moons", "ring", "checkerboard", "turning_ring")
Table = Callable[[Iterable[str], Iterable[Iterable[Any]]], str]


def head_toy(table: Table) -> str:
    """One row per head: how close to five known laws, and at what cost."""
    rows = []
    for head in HEADS.names():
        mine = {
            row["problem"]: row for row in _rows("toy") if row["part"] == "cloning" and row["variant"] == _variant(head)
        }
        if not mine:  # a head from outside
            continue
        slow = [float(mine[name]["cpu_seconds_per_1000"]) for name in DENSITIES]
        w2 = " / ".join(f"{float(mine[name]['w2']):.3f}" for name in DENSITIES)
        sharp = [float(mine[name]["sharpness"]) for name in DENSITIES]
        rows.append(
            (
                sum(sharp) / len(sharp),
                f"[`{head}`](heads.md#{head})",
                mine["grid"]["evaluations"],
                " / ".join(f"{value:.2f}" for value in sharp),
                w2,
                f"{min(slow):.1f} to {max(slow):.1f}",
            )
        )
    ordered = [row[1:] for row in sorted(rows, key=lambda row: -row[0])]
    return table(("head", "passes per action", "sharpness", "W2", "s / 1,000 updates"), ordered)


def head_zoo(table: Table) -> str:
    """One row per recipe, by head: what an action takes, and the scores at the zoo's budget."""
    heads = {row["name"]: row["head"] for row in recipe_rows()}
    maze, pen = (
        {row["recipe"]: row for row in _rows("zoo") if row["metric"] == metric} for metric in ("success", "score")
    )
    rows = []
    for recipe, head in sorted(heads.items(), key=lambda pair: pair[::-1]):
        row = maze[recipe]
        passes = f"{row['evaluations_per_action']} x {row['candidates']}"
        took = f"{float(row['act_milliseconds']):.2f}"
        scores = (f"{float(maze[recipe]['score']):.2f}", _score(pen[recipe]))
        rows.append((f"`{head}`", f"[`{recipe}`](algorithms/{recipe}.md)", passes, took, *scores))
    return table(("head", "recipe", "passes x candidates", "ms / action", "maze", "pen"), rows)


def _score(row: dict[str, str]) -> str:
    return f"{float(row['score']):.1f}" if row["score"] else "diverged"


def _variant(head: str) -> str:
    return "residual" if head == "meanflow" else head


def _rows(study: str) -> list[dict[str, str]]:
    with (RESULTS / study / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))
