"""Every logged metric has a formula, and every formula a metric."""

import dataclasses

import numpy as np
import pytest

from genpolicy.config import compose
from genpolicy.envs import evaluator
from genpolicy.heads.objectives import OBJECTIVES
from genpolicy.listing import metric_rows
from genpolicy.recipes import recipe_names
from genpolicy.registry import HEADS
from genpolicy.training import online
from tests.helpers import raw_batch, small_agent

VARIANTS = [
    *([algorithm] for algorithm in recipe_names()),
    *(["bc", f"head={head}"] for head in HEADS.names()),
    *(["bc", "head.two_time=true", "head.instant_share=0.5", f"head.objective={name}"] for name in OBJECTIVES.names()),
    ["bc", "head.consistency_weight=1"],
    ["fql", "critic=categorical"],
    ["iql", "critic=td", "policy.baseline=samples"],
    ["sac", "critic.entropy_backup=true"],
]


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_the_metrics_of_an_update_are_those_with_a_formula(variant: list[str]) -> None:
    algorithm, *overrides = variant
    agent = small_agent(algorithm, *overrides)
    batch = raw_batch(8)
    if agent.action_chunk > 1:
        for key in ("actions", "next_actions"):
            batch[key] = batch[key].unsqueeze(1).expand(-1, agent.action_chunk, -1)
    logged: set[str] = set()
    for _ in range(agent.config.policy_every):
        logged |= agent.update(batch).keys()
    rows = metric_rows(compose([f"algorithm={algorithm}", "preset=smoke", *overrides]))
    assert {name for name, _ in rows} == logged
    assert all(formula for _, formula in rows)


def test_the_metrics_of_evaluation_and_exploration_are_those_with_a_formula() -> None:
    one = np.ones(1)
    full = evaluator.Evaluation(returns=one, lengths=one, successes=one, seconds=1.0, scores=one)
    assert full.metrics().keys() == evaluator.METRIC_FORMULAS.keys()
    fewer = dataclasses.replace(full, successes=None, scores=None)
    assert fewer.metrics().keys() < evaluator.METRIC_FORMULAS.keys()
    interaction = online.Interaction.__new__(online.Interaction)
    interaction._last, interaction._finished = {"return": 1.0, "length": 1.0, "success": 1.0}, 1
    assert interaction.metrics().keys() == online.METRIC_FORMULAS.keys()
