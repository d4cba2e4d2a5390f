"""What differs on a GPU: replayed updates, generators of the device, checkpoints that travel between devices."""

from pathlib import Path

import numpy as np
import pytest
import torch

from genpolicy import Agent, make_agent
from genpolicy.data import BatchSampler, TransitionDataset
from genpolicy.recipes import recipe_names
from genpolicy.training.agent_group import AgentGroup
from tests.helpers import ACTION_DIM, OBSERVATION_DIM, raw_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

# Kernels of another order of sums; Adam turns the last bits of a small gradient into a share of the learning rate.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-3}


def agent_of(algorithm: str = "meanflow_ql", *overrides: str, seed: int = 0, device: str = "cuda") -> Agent:
    return make_agent(
        algorithm,
        observation_shape=(OBSERVATION_DIM,),
        action_dim=ACTION_DIM,
        overrides=["preset=smoke", *overrides],
        seed=seed,
        device=device,
    )


def batch_for(agent: Agent, seed: int) -> dict[str, torch.Tensor]:
    batch = raw_batch(seed=seed)
    if agent.action_chunk > 1:
        for name in ("actions", "next_actions"):
            batch[name] = batch[name].unsqueeze(1).repeat(1, agent.action_chunk, 1)
    return batch


@pytest.mark.parametrize("algorithm", recipe_names())
def test_a_replayed_update_is_the_eager_one(algorithm: str) -> None:
    eager, replayed = agent_of(algorithm), agent_of(algorithm)
    replayed.accelerate(compiled=False)
    for step in range(6):
        expected, found = (one.update(batch_for(one, step)) for one in (eager, replayed))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **TOLERANCE)
    state = replayed.state_dict()
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(state[name], value, **TOLERANCE)
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    np.testing.assert_allclose(replayed.act(observation), eager.act(observation), atol=1e-3)


def test_a_state_loaded_into_a_recorded_agent_goes_on_from_there() -> None:
    one, other = agent_of(), agent_of()
    for agent in (one, other):
        agent.accelerate(compiled=False)
    for step in range(5):
        one.update(batch_for(one, step))
        other.update(batch_for(other, 100 + step))
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    for step in range(5, 8):
        for agent in (one, other):
            agent.update(batch_for(agent, step))
    state = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(state[name], value, **TOLERANCE)


def test_a_replayed_group_learns_what_its_agents_learn_alone() -> None:
    together, alone = ([agent_of(seed=seed) for seed in range(3)] for _ in range(2))
    group = AgentGroup(together)
    group.accelerate(compiled=False)
    for step in range(6):
        group.update([batch_for(one, 10 * step + index) for index, one in enumerate(together)])
        for index, agent in enumerate(alone):
            agent.update(batch_for(agent, 10 * step + index))
    for one, other in zip(together, alone, strict=True):
        state = one.state_dict()
        for name, value in other.state_dict().items():
            torch.testing.assert_close(state[name], value, **TOLERANCE)


def test_batches_are_drawn_on_the_device() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.zeros(1000, dtype=torch.bool)
    ends[99::100] = True
    arrays = torch.randn(1000, OBSERVATION_DIM, generator=generator), torch.rand(1000, ACTION_DIM, generator=generator)
    data = TransitionDataset.from_arrays(*arrays, -torch.ones(1000), torch.ones(1000), ends, name="random")
    sampler = BatchSampler(data, 16, discount=0.99, n_step=3, device="cuda")
    batch = sampler.sample()
    assert all(value.device.type == "cuda" for value in batch.values())
    state = sampler.state_dict()
    expected = sampler.sample()
    sampler.load_state_dict({name: value.cpu() for name, value in state.items()})
    assert all(torch.equal(value, expected[name]) for name, value in sampler.sample().items())


def test_a_checkpoint_travels_to_the_cpu(tmp_path: Path) -> None:
    trained, loaded = agent_of(), agent_of(device="cpu")
    trained.update(batch_for(trained, 0))
    loaded.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
    observations = np.random.default_rng(0).normal(size=(5, OBSERVATION_DIM)).astype(np.float32)
    noise = [torch.Generator().manual_seed(seed) for seed in range(5)]
    again = [torch.Generator().manual_seed(seed) for seed in range(5)]
    np.testing.assert_allclose(trained.act(observations, noise), loaded.act(observations, again), atol=1e-4)


@pytest.mark.slow
def test_a_compiled_update_is_the_eager_one() -> None:
    eager, compiled = agent_of(), agent_of()
    compiled.accelerate()
    for step in range(5):
        expected, found = (one.update(batch_for(one, step)) for one in (eager, compiled))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **TOLERANCE)
