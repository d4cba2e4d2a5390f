"""The JAX transcriptions that the speed of our updates is compared with compute what ours do."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genpolicy import Agent, make_agent
from tests.helpers import ACTION_DIM, OBSERVATION_DIM, double_precision, randomise, raw_batch

jax = pytest.importorskip("jax")

from benchmarks.speed import jax_updates  # noqa: E402 - needs jax

__all__ = ["double_precision"]

UPDATES = 10
# All that changes in training changes within ten updates: the rate warms up for two and then decays, and the weight
# of behaviour cloning follows the fit, up and down. Some targets are clipped.
OPTIONS = {
    "meanflow_ql": (
        "head.backbone.width=16",
        "head.backbone.depth=2",
        "head.backbone.time_features=8",
        "head.target_clip=1",
        "critic.hidden_dims=[16,16]",
        "trainer.steps=40",
        "policy.bc_schedule.interval=1",
        "policy.bc_schedule.warmup_fraction=0",
        "policy.bc_schedule.threshold=1.0001",
    ),
    "fql": ("head.backbone.hidden_dims=[16,16]", "head.flow_steps=3", "critic.hidden_dims=[16,16]"),
}


@pytest.fixture(autouse=True)
def double_precision_in_jax():
    """And fewer optimisations, which take longer than all else here."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def make(algorithm: str) -> Agent:
    agent = make_agent(
        algorithm,
        observation_shape=(OBSERVATION_DIM,),
        action_dim=ACTION_DIM,
        overrides=[*OPTIONS[algorithm], "trainer.compile=false"],
    )
    for module in (agent.policy, agent.critic):
        randomise(module, scale=0.2)
    return agent


def assert_equal(found, expected) -> None:
    """Equal but for float64's rounding of sums of a few hundred terms, which grows with the updates."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


def without_queries_and_keys(policy):
    """The parameters that ours have too: a block's values are the last third of one layer."""
    policy = jax.tree.map(lambda parameter: parameter, policy)  # a copy
    for block in policy.get("backbone", {}).get("blocks", ()):
        value, width = block["value"], len(block["value"]["bias"]) // 3
        block["value"] = {name: parameter[..., -width:] for name, parameter in value.items()}
        del block["query_norm"], block["key_norm"]
    return policy


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_the_update_in_jax_is_ours(algorithm: str) -> None:
    agent = make(algorithm)
    update, state = jax_updates.make_update(agent), jax_updates.state_from(agent)
    weights = []
    for step in range(UPDATES):
        raw = raw_batch(n=32, seed=step)
        batch, draws = agent.encode(raw), agent.draw(len(raw["rewards"]))
        state, metrics = update(state, jax_updates.to_jax(batch), jax_updates.to_jax(draws))
        expected = agent.update_with_draws(batch, draws)
        assert_equal(metrics, jax_updates.to_jax(expected))
        weights.append(expected["policy/bc_weight"].item())
    assert_equal(state, jax_updates.state_from(agent))
    assert algorithm == "fql" or set(np.sign(np.diff(weights))) == {-1, 0, 1}


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_the_update_in_the_arrangement_of_the_public_code_is_ours_with_more_operations(algorithm: str) -> None:
    agent, n = make(algorithm), 32
    update, state = jax_updates.make_public_update(agent), jax_updates.public_state_from(agent)
    for step in range(UPDATES):
        raw = raw_batch(n, seed=step)
        batch, draws = agent.encode(raw), agent.draw(n)
        arguments = jax_updates.to_jax(batch), jax_updates.public_draws(jax_updates.to_jax(draws), jax.random.key(step))
        state, metrics = update(state, *arguments)
        expected = jax_updates.to_jax(agent.update_with_draws(batch, draws))
        assert_equal({name: metrics[name] for name in expected}, expected)
    (added,) = metrics.keys() - expected.keys()
    assert metrics[added] > 0
    ours = jax_updates.state_from(agent)
    assert_equal(without_queries_and_keys(state["policy"]), ours["policy"])
    for part in ("critic", "target", "bc", "step"):
        assert_equal(state[part], ours[part])

    theirs = jax_updates.operations(update, state, *arguments)
    same = jax_updates.operations(jax_updates.make_update(agent), ours, *map(jax_updates.to_jax, (batch, draws)))
    assert theirs > same


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_draws_in_jax_follow_our_laws(algorithm: str) -> None:
    agent, n = make(algorithm), 20_000
    ours, theirs = jax_updates.to_jax(agent.draw(n)), jax_updates.make_draw(agent)(jax.random.key(0), n)
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    for one, other in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.mean(), other.mean(), atol=0.05)  # five standard errors of a difference
        np.testing.assert_allclose(one.std(), other.std(), atol=0.05)


def test_the_update_that_draws_is_ours_with_these_draws() -> None:
    agent = make("fql")
    batch, key = agent.encode(raw_batch(n=32)), jax.random.key(1)
    expected_key, own, _ = jax.random.split(key, 3)
    draws = jax.tree.map(lambda array: torch.from_numpy(np.array(array)), jax_updates.make_draw(agent)(own, 32))
    update = jax_updates.make_drawing_update(agent)
    state, key, metrics = update(jax_updates.state_from(agent), key, jax_updates.to_jax(batch))
    assert_equal(metrics, jax_updates.to_jax(agent.update_with_draws(batch, draws)))
    assert_equal(state, jax_updates.state_from(agent))
    assert key == expected_key


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_the_update_in_jax_has_as_many_products_as_ours(algorithm: str) -> None:
    agent, n = make(algorithm), 32
    batch, draws = agent.encode(raw_batch(n)), agent.draw(n)
    arguments = jax_updates.state_from(agent), jax_updates.to_jax(batch), jax_updates.to_jax(draws)
    theirs = jax_updates.operations(jax_updates.make_update(agent), *arguments)
    with FlopCounterMode(display=False) as counter:
        agent.update_with_draws(batch, draws)
    assert theirs == counter.get_total_flops()
