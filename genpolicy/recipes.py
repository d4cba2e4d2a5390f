"""Recipes: one YAML file per published algorithm, and tuned hyperparameters by task, read as plain values."""

import csv
import pickle
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from genpolicy.errors import ConfigError, suggest

Tree = dict[str, Any]
"""Nested plain values, as YAML holds them."""


_IN_CHECKOUT = {"algorithms": "algorithms", "suites": "benchmarks/suites"}


def declarations(kind: Literal["algorithms", "suites"] = "algorithms") -> Path:
    """The directory of recipes or suites: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_declarations" / kind
    return installed if installed.is_dir() else package.parent / _IN_CHECKOUT[kind]


def recipe_names() -> list[str]:
    """Names of the algorithms that have a recipe."""
    return sorted(path.stem for path in declarations().glob("*.yaml"))


def load_recipe(algorithm: str) -> Tree:
    """Read a recipe by name or path.

    Raises:
        ConfigError: for an unknown name (with the nearest ones), a file that is not YAML, or a deviation that is not
            text.
    """
    named = declarations() / f"{algorithm}.yaml"
    path = Path(algorithm).expanduser() if algorithm.endswith((".yaml", ".yml")) else named
    if not path.is_file():
        names = recipe_names()
        raise ConfigError(
            f"Unknown algorithm '{algorithm}'.{suggest(algorithm, names)} Known: {', '.join(names)}; "
            "or give the path of a recipe that ends in .yaml."
        )
    return pickle.loads(_pickled(path, path.stat().st_mtime_ns, path.stat().st_size))


@cache
def _pickled(path: Path, modified: int, size: int) -> bytes:
    """A recipe as it was at that time, for copies that may be changed; parsing takes a hundred times as long."""
    recipe = read_yaml(path.read_text(), str(path))
    _check_deviations(recipe, str(path))
    return pickle.dumps(recipe)


def _check_deviations(recipe: Tree, where: str) -> None:
    """Refuse a deviation that YAML read as something else than text, as it does with an unquoted colon."""
    about = recipe.get("about")
    deviations = about.get("deviations") if isinstance(about, dict) else None
    for deviation in deviations if isinstance(deviations, list) else []:
        if not isinstance(deviation, str):
            raise ConfigError(
                f"{where}: about.deviations holds {deviation!r}, a {type(deviation).__name__} and not a text. "
                'YAML reads "a: b" as a mapping; put the sentence in quotes.'
            )


def read_yaml(text: str, where: str) -> Tree:
    """Parse YAML into a mapping.

    Args:
        text: YAML.
        where: what it is, for messages.

    Raises:
        ConfigError: for text that is not YAML or not a mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        tree = OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of keys to values, got {type(tree).__name__}.")
    return cast(Tree, tree)


def tuned_rows(task: str, algorithm: str | None = None) -> list[dict[str, str]]:
    """The rows of ``algorithms/tuned.csv`` for a (numbered) task, of one algorithm or of all.

    A row has the columns algorithm, task, key, value, when and source. `when` tells which runs it applies to:
    ``always``; ``online``, to runs with an online phase, over the former; ``never``, where another source disagrees
    with the value that is used.
    """
    path = declarations() / "tuned.csv"
    if not path.is_file():
        return []
    rows = _rows_by_task(path, path.stat().st_mtime_ns, path.stat().st_size).get(task, [])
    return [dict(row) for row in rows if algorithm in (None, row["algorithm"])]


@cache
def _rows_by_task(path: Path, modified: int, size: int) -> dict[str, list[dict[str, str]]]:
    """The rows of the file as it was at that time."""
    rows: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["task"], []).append(row)
    return rows


def tuned_overrides(algorithm: str, task: str, *, online: bool = False) -> list[str]:
    """The overrides, ``key=value``, that apply to an algorithm on a (numbered) task, the stronger ones last.

    Args:
        algorithm: name of a recipe.
        task: name of a numbered task.
        online: whether the run has an online phase.
    """
    rows = tuned_rows(task, algorithm)
    return [
        f"{row['key']}={row['value']}"
        for when in ("always", "online")[: 1 + online]
        for row in rows
        if row.get("when", "always") == when
    ]
