"""Tables of what exists: parts and algorithms as rows of plain values."""

import dataclasses
import re
import typing
from typing import Any

import torch

from genpolicy.config import RunConfig, compose
from genpolicy.heads.base import GenerativeHead
from genpolicy.heads.objectives import OBJECTIVES
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.options import Options, describe_type
from genpolicy.recipes import load_recipe, recipe_names
from genpolicy.registry import BACKBONES, CRITICS, ENCODERS, HEADS, POLICIES, Registry
from genpolicy.training.optimizer import METRIC_FORMULAS as OPTIMISER

REGISTRIES: dict[str, Registry] = {
    registry.plural: registry
    for registry in (HEADS, CRITICS, POLICIES, BACKBONES, ENCODERS, REFORMULATIONS, OBJECTIVES)
}
"""Every registry that `genpolicy list` knows, by its plural."""

AGREES, CLOSED_FORM = "numbers agree", "closed form"
"""What is known of an algorithm: it agrees with stored numbers of its reference, or its parts with closed forms."""


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


def metric_rows(config: RunConfig) -> list[tuple[str, str]]:
    """Name and formula of every metric that an update of such a run returns."""
    head = HEADS.find(config.head).cls.metric_formulas(config.head)
    formulas = {"policy": POLICIES.find(config.policy).cls.metric_formulas(config.policy, head) | OPTIMISER}
    if config.critic is not None:
        formulas["critic"] = CRITICS.find(config.critic).cls.metric_formulas(config.critic) | OPTIMISER
    return [(f"{part}/{name}", text) for part, of_part in formulas.items() for name, text in of_part.items()]


def recipe_rows() -> list[dict[str, Any]]:
    """Name, paper, parts, cost of acting and state of every algorithm."""
    rows = []
    for name in recipe_names():
        about, config = load_recipe(name)["about"], compose([f"algorithm={name}"])
        rows.append(
            {
                "name": name,
                "summary": about["summary"],
                "paper": about["paper"],
                "head": HEADS.find(config.head).name,
                "critic": "none" if config.critic is None else CRITICS.find(config.critic).name,
                "policy": POLICIES.find(config.policy).name,
                "steps": steps_per_action(config.head),
                "parity": about["parity"],
                "status": AGREES if about["parity"] else CLOSED_FORM,
            }
        )
    return rows


def steps_per_action(head: Options) -> int:
    """Network evaluations that one action of such a head takes."""
    with torch.device("meta"):  # the head says it once it is built; on this device its parameters take no memory
        built: GenerativeHead = HEADS.create(head, feature_dim=1, action_dim=1)
    return built.steps


def short(row: dict[str, Any]) -> dict[str, str]:
    """A row of `recipe_rows` as narrow as a terminal: a paper is its arXiv number, parity a number of cases."""
    cells = {key: value for key, value in row.items() if key != "summary"}
    number = re.search(r"arXiv:(\d{4}\.\d{5})", row["paper"])
    cells |= {"paper": number[1] if number else row["paper"], "parity": len(row["parity"])}
    return {key: str(value) for key, value in cells.items()}
