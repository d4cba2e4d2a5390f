"""Measured numbers of heads, read from the results of the toy study and the zoo."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from genpolicy.listing import recipe_rows
from genpolicy.registry import HEADS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
DENSITIES = ("grid", "moons", "ring", "checkerboard", "turning_ring")
Table = Callable[[Iterable[str], Iterable[Iterable[Any]]], str]


def head_toy(table: Table) -> str:
    """One row per head: sharpness on five known laws, the distance where it is worst, and the cost."""
    toy = [row for row in _rows("toy") if row["part"] == "cloning"]
    laws = json.loads((RESULTS / "toy" / "results.json").read_text())["references"]
    rows = []
    for head in HEADS.names():
        variant = "residual" if head == "meanflow" else head
        mine = {row["problem"]: row for row in toy if row["variant"] == variant}
        if not mine:  # a head from outside
            continue
        sharpness = [float(mine[name]["sharpness"]) for name in DENSITIES]
        worst = max(float(mine[name]["w2"]) / laws[name]["true"]["w2"] for name in DENSITIES)
        seconds = [float(mine[name]["cpu_seconds_per_1000"]) for name in DENSITIES]
        cells = (*(f"{value:.2f}" for value in sharpness), f"{worst:.1f}", f"{min(seconds):.1f} to {max(seconds):.1f}")
        rows.append((sum(sharpness), f"[`{head}`](heads.md#{head})", mine["grid"]["evaluations"], *cells))
    ordered = [row[1:] for row in sorted(rows, key=lambda row: -row[0])]
    uniform = [f"{laws[name]['uniform']['sharpness']:.2f}" for name in DENSITIES]
    ratio = max(laws[name]["uniform"]["w2"] / laws[name]["true"]["w2"] for name in DENSITIES)
    ordered.append(("*uniform on the box*", "", *uniform, f"{ratio:.1f}", ""))
    header = (
        "head",
        "passes",
        *(name.replace("_", " ") for name in DENSITIES),
        "worst W2 / floor",
        "s / 1,000 updates",
    )
    return table(header, ordered)


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
