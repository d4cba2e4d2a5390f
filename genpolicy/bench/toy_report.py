"""From the toy study's runs to its table, files and figures."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from genpolicy.bench.toy_runs import CLONING, reference_measures
from genpolicy.data import toy
from genpolicy.training import provenance

HIGHER_IS_BETTER = ("modes", "sharpness", "return")
DIVERGED_BEYOND = 5.0
Row = dict[str, Any]


def summarise(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per part, problem and variant: mean and worst seed of each measure; best rows first.

    A measure that is not finite in some seed (a diverged run) has no mean and no worst seed: None.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["part"], result["problem"], result["variant"]), []).append(result)
    rows = [_summarise_group(key, runs) for key, runs in groups.items()]
    problems = list(dict.fromkeys((row["part"], row["problem"]) for row in rows))
    return sorted(rows, key=lambda row: (problems.index((row["part"], row["problem"])), _rank(row)))


def _summarise_group(key: tuple[str, str, str], runs: Sequence[Mapping[str, Any]]) -> Row:
    row: Row = dict(zip(("part", "problem", "variant"), key, strict=True))
    if runs[0]["value"] is not None:
        row |= {"value": runs[0]["value"], "bc_weight": runs[0]["bc_weight"]}
    row |= {"seeds": len(runs), "diverged": sum(map(diverged, runs))}
    for name in runs[0]["final"]:
        if name == "step":
            continue
        values = [run["final"][name] for run in runs]
        finite = all(value is not None for value in values)
        worst = min if name in HIGHER_IS_BETTER else max
        row[name] = fmean(values) if finite else None
        row[f"{name}_worst"] = worst(values) if finite else None
    row["outside_early"] = fmean(_outside_at(run, 0.05) for run in runs)
    row["evaluations"] = runs[0]["evaluations_per_action"]
    row["cpu_seconds_per_1000"] = median(run["cpu_seconds_per_1000"] for run in runs)
    return row


def diverged(run: Mapping[str, Any]) -> bool:
    """Whether a sample is not finite, or a coordinate beyond DIVERGED_BEYOND in the second half of training."""
    late = [point["largest"] for point in run["curve"] if 2 * point["step"] >= run["steps"]]
    return any(value is None or value > DIVERGED_BEYOND for value in late)


def _outside_at(run: Mapping[str, Any], share: float) -> float:
    """Share of samples outside the bounds at the first measurement after this share of training."""
    return next(point["outside"] for point in run["curve"] if point["step"] >= share * run["steps"])


def _rank(row: Row) -> tuple[int, float]:
    value = row["w2"] if row["part"] == CLONING else row["return"]
    if value is None:
        return (1, 0.0)
    return (0, value if row["part"] == CLONING else -value)


def references(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """By density of the first part: the measures of the law itself ("true") and of the uniform law on the box."""
    names = dict.fromkeys(row["problem"] for row in rows if row["part"] == CLONING)
    return {
        name: {law: reference_measures(toy.get_density(name), law=law) for law in ("true", "uniform")} for name in names
    }


def write_study(out: Path, results: Sequence[Mapping[str, Any]], command: str) -> list[Row]:
    """Write results.json, results.csv, table.md and the figures into a directory.

    Args:
        out: the directory.
        results: all runs.
        command: the command line that made them.

    Returns:
        The rows of the table.
    """
    from genpolicy.bench.toy_figures import draw_figures

    rows = summarise(results)
    laws = references(rows)
    out.mkdir(parents=True, exist_ok=True)
    pictures = ("samples", "field")
    runs = [{name: value for name, value in run.items() if name not in pictures} for run in results]
    made_with = provenance.collect(None)
    document = {
        "command": command,
        "provenance": {name: value for name, value in made_with.items() if name not in ("command", "directory")},
        "pot": provenance.version("POT"),
        "references": laws,
        "rows": rows,
        "runs": runs,
    }
    (out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    (out / "table.md").write_text(render_tables(rows, laws))
    for name, figure in draw_figures(results, rows, laws).items():
        figure.savefig(out / f"{name}.png", dpi=110)
    return rows


# Markdown


def render_tables(rows: Sequence[Row], laws: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the study's tables in Markdown: one for each density and each known Q."""
    parts = []
    for part, problem in dict.fromkeys((row["part"], row["problem"]) for row in rows):
        chosen = [row for row in rows if (row["part"], row["problem"]) == (part, problem)]
        if part == CLONING:
            parts.append(_cloning_table(problem, chosen, laws[problem]))
        else:
            parts.append(_climbing_table(problem, chosen))
    return "\n".join(parts)


def _cloning_table(problem: str, rows: Sequence[Row], laws: Mapping[str, Mapping[str, float]]) -> str:
    floor = laws["true"]["w2"]
    header = ("variant", "W2", "worst seed", "times floor", "modes", "worst seed", "sharpness", "outside", "diverged")
    header = (*header, "s / 1,000 updates", "evaluations / action", "seeds")
    lines = []
    for law, label in (("true", "*the law itself (floor)*"), ("uniform", "*uniform on the box*")):
        measures = laws[law]
        known = [
            _number(measures["w2"]),
            _number(measures["w2_worst"]),
            _number(measures["w2"] / floor, 2),
            _share(measures["modes"]),
            "",
        ]
        lines.append([label, *known, _number(measures["sharpness"], 2), "", "", "", "", ""])
    for row in rows:
        lines.append(
            [
                row["variant"],
                _number(row["w2"]),
                _number(row["w2_worst"]),
                _number(row["w2"] / floor if row["w2"] is not None else None, 2),
                _share(row["modes"]),
                _share(row["modes_worst"]),
                _number(row["sharpness"], 2),
                _share(row["outside"], 1),
                *_run_cells(row),
            ]
        )
    return f"### Behaviour cloning: {problem}\n\n{toy.get_density(problem).summary}.\n\n{_table(header, lines)}"


def _climbing_table(problem: str, rows: Sequence[Row]) -> str:
    header = ("variant", "return", "worst seed", "outside", "worst seed", "outside at 5%", "sharpness", "modes")
    header = (*header, "largest coordinate", "diverged", "s / 1,000 updates", "evaluations / action", "seeds")
    lines = [
        [
            row["variant"],
            _number(row["return"]),
            _number(row["return_worst"]),
            _share(row["outside"], 1),
            _share(row["outside_worst"], 1),
            _share(row["outside_early"], 1),
            _number(row["sharpness"], 2),
            _share(row["modes"]),
            _number(row["largest_worst"], 2),
            *_run_cells(row),
        ]
        for row in rows
    ]
    weight = rows[0]["bc_weight"]
    summary = f"{(toy.get_value(rows[0]['value']).__doc__ or '').splitlines()[0]} Weight of cloning {weight:g}."
    return f"### Q-gradient: {problem}\n\n{summary}\n\n{_table(header, lines)}"


def _run_cells(row: Row) -> list[str]:
    seconds = _number(row["cpu_seconds_per_1000"], 2)
    return [f"{row['diverged']} of {row['seeds']}", seconds, str(row["evaluations"]), str(row["seeds"])]


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def _number(value: float | None, digits: int = 3) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int = 0) -> str:
    return "not finite" if value is None else f"{100 * value:.{digits}f}%"


# The terminal


def result_table(rows: Sequence[Row]) -> list[Any]:
    """Return a rich table for each density and each known Q, shorter than those in Markdown."""
    from rich.table import Column, Table

    tables = []
    for part, problem in dict.fromkeys((row["part"], row["problem"]) for row in rows):
        main = "w2" if part == CLONING else "return"
        table = Table(
            Column("variant", no_wrap=True),
            main,
            "worst seed",
            "modes",
            "sharpness",
            "outside",
            "diverged",
            title=f"{part} {problem}",
        )
        for row in rows:
            if (row["part"], row["problem"]) == (part, problem):
                shares = [_share(row["modes"]), _number(row["sharpness"], 2), _share(row["outside"], 1)]
                values = [_number(row[main]), _number(row[f"{main}_worst"])]
                table.add_row(row["variant"], *values, *shares, f"{row['diverged']} of {row['seeds']}")
        tables.append(table)
    return tables
