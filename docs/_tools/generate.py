"""The parts of README and docs that are made from the code: tables of parts, recipes, keys, commands, signatures.

``python docs/_tools/generate.py`` rewrites them in place; a test compares them with what stands in the files. In a page
they stand between ``<!-- generated: NAME -->`` and ``<!-- end -->``; algorithms/README.md is generated as a whole.
"""

import csv
import dataclasses
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import algorithm_pages  # noqa: E402
import commands  # noqa: E402
import measured  # noqa: E402
import pairs  # noqa: E402
import source  # noqa: E402

from genpolicy.config import DataConfig, LoggingConfig, RunConfig, TrainerConfig  # noqa: E402
from genpolicy.data import PublishedScore, Task, list_tasks, published_scores  # noqa: E402
from genpolicy.listing import AGREES, CLOSED_FORM, REGISTRIES, option_rows, part_rows, recipe_rows  # noqa: E402
from genpolicy.options import Options  # noqa: E402
from genpolicy.recipes import recipe_names  # noqa: E402
from genpolicy.training.agent import AgentConfig  # noqa: E402
from genpolicy.training.online import OnlineConfig  # noqa: E402

BLOCK = re.compile(r"(<!-- generated: ([\w. ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
WITH_CATALOGUE = ("heads", "critics", "policies")


def expected() -> dict[Path, str]:
    """Every generated file and every page with a generated block, by path, as it should be."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {page: BLOCK.sub(_fill, page.read_text()) for page in pages}
    return texts | {ROOT / "algorithms" / "README.md": zoo()}


def _fill(match: re.Match[str]) -> str:
    name, _, argument = match[2].partition(" ")
    makers: dict[str, Callable[..., str]] = {
        "parts": parts,
        "example": example,
        "facts": lambda name: algorithm_pages.facts(name, linked),
        "recipe": algorithm_pages.recipe,
        "metrics": lambda name: algorithm_pages.metrics(name, table),
        "run_metrics": lambda: algorithm_pages.run_metrics(table),
        "deviations": algorithm_pages.deviations,
        "results": lambda name: algorithm_pages.results(name, table),
        "keys": keys,
        "signatures": source.signatures,
        "code": source.code,
        "imports": imports,
        "algorithms": algorithms,
        "recipes": recipes,
        "compatibility": lambda rows: pairs.compatibility(rows, table),
        "capabilities": lambda: pairs.capabilities(table),
        "tasks": tasks,
        "commands": lambda: commands.commands(table),
        "head_toy": lambda: measured.head_toy(table),
        "head_zoo": lambda: measured.head_zoo(table),
    }
    return f"{match[1]}\n{makers[name](*argument.split())}\n\n{match[3]}"


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    names = list(header)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def linked(text: str) -> str:
    """Turn arXiv numbers into links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def parts() -> str:
    """One row per head, critic, policy, backbone and encoder; the first three have an entry in a catalogue."""
    rows = []
    for registry in REGISTRIES.values():
        for row in part_rows(registry.plural):
            name = f"`{row['name']}`"
            link = f"[{name}](docs/{registry.plural}.md#{row['name']})" if registry.plural in WITH_CATALOGUE else name
            rows.append((registry.kind, link, row["summary"]))
    return table(("kind", "name", "what it is"), rows)


def recipes() -> str:
    """One short row per recipe."""
    rows = [
        (
            f"[`{row['name']}`](docs/algorithms/{row['name']}.md)",
            row["summary"],
            " x ".join(f"`{row[kind]}`" for kind in ("head", "critic", "policy")),
            row["steps"],
            row["status"],
        )
        for row in recipe_rows()
    ]
    return table(("algorithm", "what it is", "head x critic x policy", "steps", "status"), rows)


def example() -> str:
    """The example's file."""
    return f"```python\n{(ROOT / 'examples' / 'smallest_head.py').read_text()}```"


def algorithms(recipe: str = "{name}.md") -> str:
    """One row per recipe; `recipe` is where its name leads to."""
    rows = (
        (
            f"[`{row['name']}`]({recipe.format(**row)})",
            linked(row["paper"]),
            f"`{row['head']}`",
            "none" if row["critic"] == "none" else f"`{row['critic']}`",
            f"`{row['policy']}`",
            row["steps"],
            ", ".join(f"`{name}`" for name in row["parity"]) or "none",
            row["status"],
        )
        for row in recipe_rows()
    )
    header = ("algorithm", "paper", "head", "critic", "policy", "steps per action", "parity cases", "status")
    return f"""{table(header, rows)}

*Steps per action* are the network evaluations that one action of the head takes; acting by the best of N candidates
takes N times as many, and the critic's.

The *status* is **{AGREES}** where cases were made with the public code: what they hold (losses, gradients, parameters
after one and three updates, chosen actions) agrees with the stored numbers. It is **{CLOSED_FORM}** where there is no
such case: head, critic and policy agree, each for itself, with closed forms and numbers worked out by hand, the head
learns a toy density with two modes, and the recipe trains. Neither says that published scores are reached."""


def zoo() -> str:
    """The whole of algorithms/README.md."""
    with (ROOT / "algorithms" / "tuned.csv").open(newline="") as file:
        tuned = list(csv.DictReader(file))
    counts = [
        (
            f"`{name}`",
            len({row["task"] for row in mine}),
            ", ".join(f"`{key}`" for key in sorted({row["key"] for row in mine})),
        )
        for name in recipe_names()
        if (mine := [row for row in tuned if row["algorithm"] == name])
    ]
    return f"""# Algorithms

One YAML file per algorithm chooses a head, a critic and a policy and sets their options; everything it leaves out is
the part's default. `about` says where it comes from, `presets` holds the smaller sizes `small` and `smoke` (`paper` is
the recipe itself).

{algorithms("{name}.yaml")}

`genpolicy list algorithms` prints this table, a paper as its arXiv number and parity cases as their number;
`genpolicy train algorithm=NAME --cfg job` prints the whole configuration. A recipe of your own needs no registration:
`genpolicy train algorithm=path/to/recipe.yaml`.

## Tuned hyperparameters

[`tuned.csv`](tuned.csv) holds published values for single tasks, each with its source; they stand below the preset and
the command line. `when` tells which runs a value applies to: `always`; `online`, those with an online phase, in place
of the former; `never`, where another source disagrees with the value that is used.

{table(("algorithm", "tasks", "keys"), counts)}

This file is generated: `python docs/_tools/generate.py`.
"""


def keys(group: str) -> str:
    """The options of a group of the configuration, or of all parts of a kind."""
    plain: dict[str, type[Options]] = {
        "run": RunConfig,
        "trainer": TrainerConfig,
        "online": OnlineConfig,
        "data": DataConfig,
        "logging": LoggingConfig,
        "agent": AgentConfig,
    }
    if group in plain:
        return _options(plain[group], "" if group == "run" else f"{group}.")
    registry = REGISTRIES[group]
    prefix = "head.backbone." if group == "backbones" else f"{registry.kind}."
    sections = [
        f"### `{prefix.removesuffix('.')}={entry.name}`\n\n{_options(entry.config, prefix)}"
        for entry in registry.entries()
    ]
    return "\n\n".join(sections)


def _options(config: type[Options], prefix: str) -> str:
    rows = []
    for row in option_rows(config):
        default = row["default"]
        field = next(field for field in dataclasses.fields(config) if field.name == row["name"])
        if "slot" in field.metadata:
            registry = next(registry for registry in REGISTRIES.values() if registry.kind == field.metadata["slot"])
            chosen = None if field.default is None else registry.find(field.default).name
            rows.append(
                (
                    f"`{prefix}{row['name']}`",
                    f"{_article(registry.kind)} {registry.kind}",
                    _default(chosen),
                    row["help"],
                )
            )
        elif isinstance(field.default, Options):
            inner = option_rows(type(field.default))
            if config is not RunConfig:
                rows += [
                    (f"`{prefix}{row['name']}.{one['name']}`", one["type"], _default(one["default"]), one["help"])
                    for one in inner
                ]
        else:
            rows.append((f"`{prefix}{row['name']}`", row["type"], _default(default), row["help"]))
    return table(("key", "type", "default", "meaning"), rows)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{','.join(map(str, value))}]`"
    return "`null`" if value is None else f"`{value}`"


def tasks() -> str:
    """The 73 tasks of the FQL paper, with their published offline scores."""
    algorithms = list(dict.fromkeys(score.algorithm for task in _paper() for score in _offline(task)))
    rows = []
    for task in _paper():
        scores = {score.algorithm: _in_table(score) for score in _offline(task)}
        facts = (f"`{task.name}`", f"{task.discount:g}", task.metric, f"{task.protocol.updates // 1000}K")
        rows.append((*facts, *(scores.get(name, "") for name in algorithms)))
    return table(("task", "discount", "metric", "updates", *algorithms), rows)


def _paper() -> list[Task]:
    return [task for task in list_tasks() if task.in_paper]


def _offline(task: Task) -> list[PublishedScore]:
    return [score for score in published_scores(task) if score.setting == "offline" and score.kind != "rerun"]


def _in_table(score: PublishedScore) -> str:
    spread = "" if score.std is None else f" ± {score.std:g}"
    return f"{score.mean:g}{spread}{'*' if score.kind == 'second-hand' else ''}"


def imports() -> str:
    """Which package of the library imports which, at run time; imports for type checking only are left out."""
    found = source.import_graph()
    return table(
        ("package", "imports"),
        ((f"`{name}`", ", ".join(f"`{one}`" for one in sorted(found[name])) or "nothing") for name in sorted(found)),
    )


if __name__ == "__main__":
    for path, text in expected().items():
        path.write_text(text)
