"""Tables of what exists: parts and algorithms as rows of plain values."""

import dataclasses
import typing
from typing import Any

from genpolicy.config import compose
from genpolicy.heads.objectives import OBJECTIVES
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.options import Options, describe_type
from genpolicy.recipes import load_recipe, recipe_names
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES, Registry

REGISTRIES: dict[str, Registry] = {
    registry.plural: registry for registry in (HEADS, CRITICS, POLICIES, BACKBONES, REFORMULATIONS, OBJECTIVES)
}


def part_rows(plural: str) -> list[dict[str, Any]]:
    """Name, summary and options of every registered part of a kind ("heads", ...)."""
    return [
        {"name": entry.name, "summary": entry.summary, "options": option_rows(entry.config)}
        for entry in REGISTRIES[plural].entries()
    ]


def option_rows(config: type[Options]) -> list[dict[str, Any]]:
    """Name, type, default and meaning of every hyperparameter."""
    hints = typing.get_type_hints(config)
    return [
        {
            "name": field.name,
            "type": f"a {field.metadata['slot']}" if "slot" in field.metadata else describe_type(hints[field.name]),
            "default": type(field.default).__name__ if isinstance(field.default, Options) else field.default,
            "help": field.metadata.get("help", ""),
        }
        for field in dataclasses.fields(config)
    ]


def recipe_rows() -> list[dict[str, Any]]:
    """Name, summary, paper and parts of every algorithm."""
    rows = []
    for name in recipe_names():
        about, config = load_recipe(name)["about"], compose([f"algorithm={name}"])
        critic = "none" if config.critic is None else CRITICS.find(config.critic).name
        rows.append(
            {
                "name": name,
                "summary": about["summary"],
                "paper": about["paper"],
                "head": HEADS.find(config.head).name,
                "critic": critic,
                "policy": POLICIES.find(config.policy).name,
            }
        )
    return rows
