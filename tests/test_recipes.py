"""Every recipe trains, and behaviour cloning does with every head."""

from pathlib import Path

import pytest
import torch

from genpolicy import Agent
from genpolicy.errors import ConfigError
from genpolicy.recipes import load_recipe, recipe_names
from genpolicy.registry import HEADS
from tests.helpers import ACTION_DIM, OBSERVATION_DIM, raw_batch, small_agent


def train(agent: Agent) -> None:
    """Update three times (the first rate under a warm-up is 0) and act."""
    before = [parameter.clone() for parameter in agent.policy.head.parameters()]
    for seed in range(3):
        batch = raw_batch(8, seed=seed)
        for key in ("actions", "next_actions"):
            batch[key] = batch[key].unsqueeze(1).expand(-1, agent.action_chunk, -1)
            batch[key] = batch[key] if agent.action_chunk > 1 else batch[key].squeeze(1)
        metrics = agent.update(batch)
        assert all(value.isfinite().all() for value in metrics.values())
    moved = [not torch.equal(old, new) for old, new in zip(before, agent.policy.head.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    actions = torch.as_tensor(agent.act(torch.zeros(5, OBSERVATION_DIM).numpy()))
    assert actions.shape[0] == 5 and actions.shape[-1] == ACTION_DIM and actions.abs().max() <= 1


@pytest.mark.parametrize("algorithm", recipe_names())
def test_every_recipe_trains_and_says_what_it_is(algorithm: str) -> None:
    about = load_recipe(algorithm)["about"]
    assert list(about) == ["title", "summary", "paper", "reference", "equations", "parity", "deviations"]
    assert "arXiv:" in about["paper"] and about["summary"].endswith(".")
    train(small_agent(algorithm))


def test_a_deviation_that_yaml_reads_as_a_mapping_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("about:\n  deviations:\n    - The first one.\n    - Longer: 1000 steps.\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*{'Longer': '1000 steps\.'}.* quotes"):
        load_recipe(str(recipe))
    recipe.write_text("about:\n  deviations:\n    - 'Longer: 1000 steps.'\n")
    assert load_recipe(str(recipe))["about"]["deviations"] == ["Longer: 1000 steps."]


@pytest.mark.parametrize("head", HEADS.names())
def test_behaviour_cloning_trains_every_head(head: str) -> None:
    agent = small_agent("bc", f"head={head}")
    assert HEADS.find(agent.policy.head.config).name == head and agent.critic is None
    train(agent)
