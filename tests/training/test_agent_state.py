"""The agent's state: exact continuation, and states that do not fit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy.errors import CheckpointError
from tests.helpers import OBSERVATION_DIM, raw_batch, small_agent

ALGORITHMS = ["meanflow_ql", "gaussian_ql", "bc"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_restored_agent_goes_on_bit_for_bit(algorithm: str) -> None:
    adaptive = ("policy.bc_schedule.kind=adaptive", "policy.bc_schedule.interval=1")
    options = ("trainer.pretrain_steps=2", *(adaptive if algorithm == "meanflow_ql" else ()))
    agent = small_agent(algorithm, *options)
    for step in range(5):
        agent.update(raw_batch(seed=step))
    agent.act(np.zeros(OBSERVATION_DIM))
    agent.evaluate_losses(raw_batch())
    state = {name: value.clone() for name, value in agent.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in state.values())
    restored = small_agent(algorithm, *options, seed=1)
    restored.load_state_dict(state)
    assert restored.step == 5
    for step in range(3):
        expected, found = (one.update(raw_batch(seed=10 + step)) for one in (agent, restored))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    validation = [one.evaluate_losses(raw_batch())["policy/bc_loss"] for one in (agent, restored)]
    assert torch.equal(*validation)
    assert (agent.act(np.zeros((3, OBSERVATION_DIM))) == restored.act(np.zeros((3, OBSERVATION_DIM)))).all()
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in agent.state_dict().items())


def test_state_holds_parts_moments_explicit_state_and_generators() -> None:
    names = small_agent("meanflow_ql", "policy.bc_schedule.kind=adaptive").state_dict().keys()
    for wanted in (
        "policy.head.backbone.layers.0.weight",
        "critic.online.linears.0.weight",
        "critic.target.linears.0.weight",
        "encoder.mean",
        "optimizer.policy.count",
        "optimizer.policy.first.head.backbone.layers.0.weight",
        "optimizer.critic.second.online.linears.0.bias",
        "state.step",
        "state.bc_weight",
        "state.bc_history",
        "generator.training",
        "generator.validation",
        "generator.acting",
    ):
        assert wanted in names


def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing() -> None:
    agent, other = small_agent(), small_agent("meanflow_ql", seed=1)
    state = other.state_dict()
    state["policy.extra"] = torch.zeros(1)
    del state["state.step"]
    state["critic.online.linears.0.bias"] = torch.zeros(2, 1, 7)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        agent.load_state_dict(state)
    message = str(caught.value)
    assert "Missing: state.step." in message
    assert "Unexpected: policy.extra." in message
    assert "Wrong shape: critic.online.linears.0.bias (2, 1, 7) instead of (2, 1, 16)." in message
    assert "Use the configuration that it was trained with." in message
    assert all(torch.equal(value, agent.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("spoil", ["missing", "unexpected", "wrong"])
def test_one_tensor_that_does_not_fit_is_enough(spoil: str) -> None:
    agent = small_agent()
    state = agent.state_dict()
    if spoil == "missing":
        del state["optimizer.policy.count"]
    elif spoil == "unexpected":
        state["state.other"] = torch.tensor(1.0)
    else:
        state["encoder.mean"] = torch.zeros(4)
    with pytest.raises(CheckpointError):
        agent.load_state_dict(state)


def test_long_lists_of_wrong_tensors_are_abbreviated() -> None:
    with pytest.raises(CheckpointError, match=r"Missing: (\S+, ){4}\S+ and \d+ more\. Unexpected: none"):
        small_agent().load_state_dict({})


def test_a_state_of_an_accelerator_can_be_loaded_on_the_cpu() -> None:
    agent = small_agent()
    state = agent.state_dict() | {f"generator.{name}": torch.zeros(16, dtype=torch.uint8) for name in agent.generators}
    agent.load_state_dict(state)
