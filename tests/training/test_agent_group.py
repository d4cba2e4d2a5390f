"""Agents that learn as a group: the same numbers as alone, and nothing shared."""

import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy import Agent
from genpolicy.errors import ConfigError, ShapeError
from genpolicy.recipes import recipe_names
from genpolicy.training.agent_group import AgentGroup
from tests.helpers import raw_batch, small_agent

# Another order of the sums changes the last bits of a gradient. Adam's first steps have the size of the learning rate
# whatever the gradient's size, so they may turn these bits into a small share of 3e-4; 1e-5 is a thirtieth of it.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
N = 3


def agents(algorithm: str = "meanflow_ql", *overrides: str) -> list[Agent]:
    return [small_agent(algorithm, *overrides, seed=seed) for seed in range(N)]


def batches(step: int, rows: int = 8) -> list[dict[str, Tensor]]:
    return [raw_batch(rows, seed=10 * step + index) for index in range(N)]


def chunked(batch: dict[str, Tensor], chunk: int) -> dict[str, Tensor]:
    repeated = {name: batch[name].unsqueeze(1).repeat(1, chunk, 1) for name in ("actions", "next_actions")}
    return batch | repeated if chunk > 1 else batch


@pytest.mark.parametrize("algorithm", recipe_names())
def test_each_agent_learns_what_it_learns_alone(algorithm: str) -> None:
    together, alone = agents(algorithm), agents(algorithm)
    group = AgentGroup(together)
    for step in range(3):
        given = [chunked(batch, alone[0].action_chunk) for batch in batches(step)]
        found = group.update(given)
        expected = [agent.update(batch) for agent, batch in zip(alone, given, strict=True)]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-3)
    for one, other in zip(together, alone, strict=True):
        state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, state[name], **TOLERANCE)
        assert one.step == other.step == group.step == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ("policy.bc_schedule.kind=adaptive", "policy.bc_schedule.interval=1"),
        ("agent.policy_every=2",),
        ("agent.policy_every=2", "agent.resting_policy=zero_gradient"),
        ("agent.policy_optimizer.max_grad_norm=0.01", "agent.critic_optimizer.schedule=cosine"),
        ("agent.target_update=before_step",),
        ("trainer.pretrain_steps=2",),
        ("head.backbone=dit", "head.backbone.width=8", "head.backbone.depth=1"),
        ("head.two_time=true", "head.objective=alpha"),
    ],
    ids=lambda given: given[-1],
)
def test_every_option_of_learning_is_kept_apart(overrides: tuple[str, ...]) -> None:
    together, alone = agents("meanflow_ql", *overrides), agents("meanflow_ql", *overrides)
    group = AgentGroup(together)
    for step in range(4):
        given = batches(step)
        group.update(given)
        for agent, batch in zip(alone, given, strict=True):
            agent.update(batch)
    for one, other in zip(together, alone, strict=True):
        state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, state[name], **TOLERANCE)


def test_an_agent_that_diverges_leaves_the_others_alone() -> None:
    sick, healthy = agents(), agents()
    groups = AgentGroup(sick), AgentGroup(healthy)
    for step in range(3):
        given = batches(step)
        groups[1].update(given)
        given[1] = given[1] | {"rewards": torch.full_like(given[1]["rewards"], torch.nan)}
        metrics = groups[0].update(given)
    assert metrics[1]["critic/loss"].isnan() and not metrics[0]["critic/loss"].isnan()
    for index in (0, 2):
        state = healthy[index].state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in sick[index].state_dict().items())


def test_agents_act_and_are_saved_as_before() -> None:
    together = agents()
    group = AgentGroup(together)
    group.update(batches(0))
    observation = np.zeros(3, np.float32)
    for agent in together:
        twin = small_agent(seed=7)
        twin.load_state_dict({name: tensor.clone() for name, tensor in agent.state_dict().items()})
        assert np.array_equal(agent.act(observation), twin.act(observation))


def test_a_loaded_state_is_what_the_group_goes_on_from() -> None:
    original = agents()
    group = AgentGroup(original)
    group.update(batches(0))
    saved = [{name: tensor.clone() for name, tensor in agent.state_dict().items()} for agent in original]
    restored = agents()
    other = AgentGroup(restored)
    for agent, state in zip(restored, saved, strict=True):
        agent.load_state_dict(state)
    for step in (1, 2):
        group.update(batches(step))
        other.update(batches(step))
    for one, two in zip(original, restored, strict=True):
        state = two.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def test_an_agent_may_catch_up_alone() -> None:
    together, alone = agents(), agents()
    group = AgentGroup(together)
    together[1].update(batches(0)[1])
    with pytest.raises(ConfigError, match=r"different numbers of updates: \[0, 1\]"):
        group.update(batches(0))
    for index in (0, 2):
        together[index].update(batches(0)[index])
    group.update(batches(1))
    for step in range(2):
        for agent, batch in zip(alone, batches(step), strict=True):
            agent.update(batch)
    for one, other in zip(together, alone, strict=True):
        state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, state[name], **TOLERANCE)


@pytest.mark.parametrize(
    "overrides", [("policy.bc_weight=3",), ("head.backbone.hidden_dims=[8]",), ("agent.policy_every=2",)]
)
def test_agents_of_different_configurations_are_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="differ in more than their seed"):
        AgentGroup([small_agent(), small_agent("meanflow_ql", *overrides)])
    with pytest.raises(ConfigError, match="at least one agent"):
        AgentGroup([])


def test_batches_must_be_of_one_size() -> None:
    group = AgentGroup(agents())
    with pytest.raises(ShapeError, match=r"have 8, 8, 4 rows; give one for each of the 3 agents"):
        group.update([*batches(0)[:2], raw_batch(4)])
    with pytest.raises(ShapeError, match="for each of the 3 agents"):
        group.update(batches(0)[:2])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["meanflow_ql", "fql"])
def test_compiled_groups_learn_what_eager_ones_do(algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
    alone = small_agent(algorithm)  # what was compiled before must not matter
    alone.accelerate()
    alone.update(raw_batch())
    compiled, eager = agents(algorithm), agents(algorithm)
    groups = AgentGroup(compiled), AgentGroup(eager)
    groups[0].accelerate()
    for step in range(3):
        for group in groups:
            group.update(batches(step))
    assert not [record for record in caplog.records if record.name.startswith("genpolicy")]  # no fall back
    for one, other in zip(compiled, eager, strict=True):
        state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, state[name], atol=5e-5, rtol=1e-3)
