"""The generated parts of an algorithm's page: what the recipe says, what a run logs, what was measured."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from genpolicy.config import compose
from genpolicy.envs.evaluator import METRIC_FORMULAS as EVALUATION
from genpolicy.listing import metric_rows, recipe_rows
from genpolicy.recipes import load_recipe
from genpolicy.training.online import METRIC_FORMULAS as EXPLORATION
from genpolicy.training.trainer import METRIC_FORMULAS as TIME

ROOT = Path(__file__).parents[2]
KEY = re.compile(r"\b((?:head|critic|policy|agent|trainer|online|data)\.[a-z_]+(?:\.[a-z_]+)*(?:=[\w.]*\w)?)")
REPOSITORY = re.compile(r"^([\w-]+/[\w-]+) ")
Table = Callable[[Iterable[str], Iterable[Iterable[Any]]], str]


def facts(algorithm: str, linked: Callable[[str], str]) -> str:
    """Paper, reference, parts, state, and the equations of the three parts."""
    recipe, row = load_recipe(algorithm), _row(algorithm)
    about = recipe["about"]
    backbone = recipe["head"].get("backbone", {}).get("name", "the head's default")
    parts = [f"head [`{row['head']}`](../heads.md#{row['head']}) on `{backbone}`"]
    if row["critic"] != "none":
        parts.append(f"critic [`{row['critic']}`](../critics.md#{row['critic']})")
    parts.append(f"policy [`{row['policy']}`](../policies.md#{row['policy']})")
    cases = ", ".join(f"`{name}`" for name in about["parity"]) or "none"
    reference = REPOSITORY.sub(r"[\1](https://github.com/\1) ", about["reference"])
    equations = "\n".join(part.strip() for part in about["equations"].split(";"))
    return f"""- **Paper**: {linked(about["paper"])}
- **Reference**: {reference}
- **Parts**: {", ".join(parts)}
- **Checked**: {row["status"]} ([what that means](index.md)); parity cases: {cases}

```text
{equations}
```"""


def recipe(algorithm: str) -> str:
    """The command, the published values for single tasks, and the file."""
    path = ROOT / "algorithms" / f"{algorithm}.yaml"
    settings = path.read_text().partition("\nhead:")[2]
    indented = "\n".join(f"    {line}".rstrip() for line in f"head:{settings}".rstrip().splitlines())
    return f"""```bash
genpolicy train algorithm={algorithm} task=cube-single-play-singletask-v0 preset=small seed=1
```
{_tuned(algorithm)}
??? abstract "algorithms/{algorithm}.yaml"

    ```yaml
{indented}
    ```"""


def _tuned(algorithm: str) -> str:
    with (ROOT / "algorithms" / "tuned.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["algorithm"] == algorithm]
    if not rows:
        return ""
    keys = ", ".join(f"`{key}`" for key in sorted({row["key"] for row in rows}))
    count = len({row["task"] for row in rows})
    return f"\n`algorithms/tuned.csv` holds published values of {keys} for {count} tasks; `preset=paper` takes them.\n"


def metrics(algorithm: str, table: Table) -> str:
    """What each number of an update is."""
    return _formulas(table, metric_rows(compose([f"algorithm={algorithm}"])))


def run_metrics(table: Table) -> str:
    """What a run logs besides the metrics of its updates."""
    return _formulas(table, [*TIME.items(), *EVALUATION.items(), *EXPLORATION.items()])


def _formulas(table: Table, rows: Iterable[tuple[str, str]]) -> str:
    return table(("metric", "formula"), ((f"`{name}`", f"`{formula}`") for name, formula in rows))


def deviations(algorithm: str) -> str:
    """Where the recipe differs from its source, numbered."""
    texts = [KEY.sub(r"`\1`", text) for text in load_recipe(algorithm)["about"]["deviations"]]
    if not texts:
        return "None is known."
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def results(algorithm: str, table: Table) -> str:
    """What the zoo's runs of the recipe came to, beside behaviour cloning."""
    rows = []
    for row in _zoo():
        if row["recipe"] != algorithm:
            continue
        cloning = next(one for one in _zoo() if one["recipe"] == "bc" and one["task"] == row["task"])
        if row["score"]:
            seeds = ", ".join(_number(row, seed) for seed in json.loads(row["by_seed"]))
            interval = f"{_number(row, row['low'])} to {_number(row, row['high'])}"
            score, speed, action = _number(row, row["score"]), f"{float(row['updates_per_second']):.0f}", _action(row)
        else:
            seeds, interval, score, speed, action = "diverged in every seed", "", "none", "", ""
        versus = _number(cloning, cloning["score"])
        rows.append((f"`{row['task']}`", row["metric"], score, interval, seeds, versus, speed, action))
    header = ("task", "metric", "mean", "95% interval", "by seed", "`bc`", "updates / s", "ms / action")
    compared = ",".join(dict.fromkeys([algorithm, "bc"]))
    return f"""```bash
genpolicy bench run recipes --generate 'factors.algorithm=[{compared}]' seeds=2 --out mine
```

{table(header, rows)}

The suite's forerunner made these numbers ([the zoo](../zoo.md)): 3,000 updates with `preset=small`, two seeds, 20
episodes each, on small substitutes of the official data. The interval is over episodes, not over seeds. These numbers
show that the recipe runs and what it costs; they do not rank algorithms and cannot be compared with published ones."""


@cache
def _zoo() -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / "results" / "zoo" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _number(row: dict[str, str], value: Any) -> str:
    return f"{float(value):.2f}" if row["metric"] == "success" else f"{float(value):.1f}"


def _action(row: dict[str, str]) -> str:
    chunk = int(row["action_chunk"])
    return f"{float(row['act_milliseconds']):.2f}" + (f" for {chunk} actions" if chunk > 1 else "")


def _row(algorithm: str) -> dict[str, Any]:
    return next(row for row in recipe_rows() if row["name"] == algorithm)
