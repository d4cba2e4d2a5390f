"""The agent's actions: shapes, bounds, sources of noise."""

import numpy as np
import pytest
import torch

from genpolicy.errors import ConfigError, ShapeError
from tests.helpers import ACTION_DIM, OBSERVATION_DIM, raw_batch, small_agent


@pytest.mark.parametrize("acting", ["best", "mean", "single"])
def test_actions_have_the_shape_of_the_observations_and_stay_in_the_bounds(acting: str) -> None:
    agent = small_agent("gaussian_ql", f"policy.acting={acting}", "policy.temperature=5")
    batch = np.random.default_rng(0).normal(size=(50, OBSERVATION_DIM))
    actions, single = agent.act(batch), agent.act(batch[0])
    assert actions.shape == (50, ACTION_DIM) and single.shape == (ACTION_DIM,)
    assert actions.dtype == single.dtype == np.float32
    assert np.abs(actions).max() <= 1 and (np.abs(actions) == 1).any()


@pytest.mark.parametrize("acting", ["best", "mean", "single"])
def test_with_a_generator_for_each_row_rows_do_not_depend_on_each_other(acting: str) -> None:
    agent = small_agent("gaussian_ql", f"policy.acting={acting}", "policy.num_candidates=3")
    observations = np.random.default_rng(0).normal(size=(4, OBSERVATION_DIM))

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = agent.act(observations, generators(0, 1, 2, 3))
    for row in range(4):
        alone = agent.act(observations[row], generators(row)[0])
        # another batch size may sum in another order
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-6)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        agent.act(observations[order], generators(*order)), together[order], rtol=1e-5, atol=1e-6
    )


def test_with_chunks_the_agent_learns_and_returns_several_actions_at_once() -> None:
    agent = small_agent("qc_fql", "data.action_chunk=4")
    assert agent.policy.head.action_dim == agent.critic.action_dim == 4 * ACTION_DIM
    observations = np.zeros((7, OBSERVATION_DIM))
    assert agent.act(observations).shape == (7, 4, ACTION_DIM) and agent.act(observations[0]).shape == (4, ACTION_DIM)
    batch = raw_batch(6)
    with pytest.raises(ShapeError, match=r"batch\['actions'\] has shape \(6, 2\); expected \(6, 4, 2\)"):
        agent.update(batch)
    chunks = torch.arange(6 * 4 * ACTION_DIM).reshape(6, 4, ACTION_DIM) / 50
    batch |= {"actions": chunks, "next_actions": chunks}
    encoded = agent.encode(batch)
    assert torch.equal(encoded.actions, chunks.reshape(6, -1))  # time first, then action components
    del batch["discounts"]
    assert agent.encode(batch).discounts.tolist() == pytest.approx([0.99**4] * 6)
    assert all(value.isfinite() for value in agent.update(batch).values())


def test_given_generators_are_used_and_the_agents_own_otherwise() -> None:
    agent, observation = small_agent("gaussian_ql"), np.zeros((2, OBSERVATION_DIM))
    own = agent.generators["acting"].get_state()
    first, again = (agent.act(observation, torch.Generator().manual_seed(3)) for _ in range(2))
    assert (first == again).all()
    assert torch.equal(agent.generators["acting"].get_state(), own)
    assert (agent.act(observation) != agent.act(observation)).any()


def test_acting_ranks_by_the_agents_critic() -> None:
    agent = small_agent("gaussian_ql", "policy.num_candidates=8")
    observation = np.zeros((6, OBSERVATION_DIM), np.float32)
    action = agent.act(observation, torch.Generator().manual_seed(0))
    noise = agent.policy.noise(6, torch.Generator().manual_seed(0))
    candidates = agent.policy.next_actions(torch.zeros(6, OBSERVATION_DIM), noise)
    values = agent.critic.target_q(torch.zeros(8, 6, OBSERVATION_DIM), candidates).mean(0)
    best = candidates[values.argmax(0), torch.arange(6)]
    np.testing.assert_allclose(action, best.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 2, 3), ()])
def test_an_observation_that_does_not_fit_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        small_agent().act(np.zeros(shape))
    assert f"has shape {shape}; this agent takes (3,) or (n, 3)" in str(caught.value)


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(ShapeError, match="2 generators"):
        small_agent().act(np.zeros((3, OBSERVATION_DIM)), [torch.Generator(), torch.Generator()])


@pytest.mark.parametrize("acting", ["best", "mean", "single"])
def test_samples_are_the_heads_own_whatever_acting_does_with_them(acting: str) -> None:
    agent = small_agent("gaussian_ql", f"policy.acting={acting}", "policy.temperature=0")
    observations = np.random.default_rng(0).normal(size=(400, OBSERVATION_DIM)).astype(np.float32)
    samples = agent.sample(observations, torch.Generator().manual_seed(3))
    mean, log_std = agent.policy.head.distribution(torch.from_numpy(observations))
    noise = torch.randn(400, ACTION_DIM, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(samples, (mean + log_std.exp() * noise).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert samples.dtype == np.float32 and np.abs(samples).max() > 1
    assert agent.sample(observations[0]).shape == (ACTION_DIM,)
    with pytest.raises(ShapeError, match=rf"shape \(400, 1\).*\(n, {OBSERVATION_DIM}\)"):
        agent.sample(observations[:, :1])


def test_without_a_generator_samples_go_on_with_the_agents_own_noise() -> None:
    first, second = small_agent("gaussian_ql"), small_agent("gaussian_ql")
    observation = np.ones(OBSERVATION_DIM)
    drawn = [first.sample(observation) for _ in range(2)]
    assert not np.array_equal(*drawn)
    np.testing.assert_array_equal(drawn, [second.sample(observation) for _ in range(2)])


def test_q_is_what_every_member_of_the_critic_says_of_given_actions() -> None:
    agent = small_agent("meanflow_ql", "critic.ensemble_size=3")
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(5, OBSERVATION_DIM)), rng.uniform(-1, 1, size=(5, ACTION_DIM))
    values = agent.q(observations, actions)
    assert values.shape == (3, 5)
    tensors = (torch.tensor(array, dtype=torch.float32) for array in (observations, actions))
    np.testing.assert_allclose(values, agent.critic.q(*tensors).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(values, agent.q(observations, -actions))
    with pytest.raises(ShapeError, match=rf"\(5, 1\); expected \(5, {ACTION_DIM}\)"):
        agent.q(observations, actions[:, :1])


def test_q_of_an_agent_that_learns_no_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no critic: BehaviourCloning.*policy=q_gradient"):
        small_agent("bc").q(np.zeros((1, OBSERVATION_DIM)), np.zeros((1, ACTION_DIM)))


def test_samples_and_values_of_chunks_have_an_axis_for_the_actions_of_a_chunk() -> None:
    agent = small_agent("qc_fql", "data.action_chunk=3")
    observations = np.zeros((4, OBSERVATION_DIM))
    samples = agent.sample(observations)
    assert samples.shape == (4, 3, ACTION_DIM)
    assert agent.q(observations, samples).shape == (2, 4)
