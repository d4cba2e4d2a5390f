import random
from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from genpolicy import make_agent
from genpolicy.config import compose
from genpolicy.errors import ConfigError
from genpolicy.heads import GaussianHead, MeanFlowHead
from genpolicy.networks import DiT
from genpolicy.policies import BehaviourCloning, QGradient
from genpolicy.training.assembly import build_agent
from tests.helpers import raw_batch, small_agent


def test_the_agent_has_the_parts_of_its_configuration() -> None:
    agent = small_agent("meanflow_ql", "head.backbone=dit", "head.backbone.width=12", "policy.num_candidates=3")
    head = agent.policy.head
    assert isinstance(agent.policy, QGradient) and isinstance(head, MeanFlowHead) and isinstance(head.backbone, DiT)
    assert head.backbone.embed.weight.shape == (12, 3 + 2)
    assert agent.policy.acting_candidates == 3
    assert agent.critic.online.linears[0].weight.shape == (2, 3 + 2, 16)
    assert (agent.observation_dim, agent.action_dim, agent.discount) == (3, 2, 0.99)
    cloning = small_agent("bc", "head=gaussian", "critic=td")
    assert isinstance(cloning.policy, BehaviourCloning) and isinstance(cloning.policy.head, GaussianHead)
    assert cloning.critic is None


def test_schedules_cover_pretraining_and_the_main_phase() -> None:
    agent = small_agent("meanflow_ql", "trainer.steps=30", "trainer.pretrain_steps=10")
    assert (agent.pretrain_steps, agent.policy.total_steps) == (10, 40)
    assert agent.policy_optimizer.total_steps == agent.critic_optimizer.total_steps == 40


def test_each_part_has_the_optimiser_that_is_meant_for_it() -> None:
    agent = small_agent("meanflow_ql", "agent.policy_optimizer.beta1=0.5", "agent.critic_optimizer.beta1=0.6")
    assert (agent.policy_optimizer.config.beta1, agent.critic_optimizer.config.beta1) == (0.5, 0.6)
    assert len(agent.policy_optimizer.parameters) == len(list(agent.policy.parameters()))
    assert len(agent.critic_optimizer.parameters) == len(list(agent.critic.online.parameters()))


def parameters(seed: int, *overrides: str) -> torch.Tensor:
    agent = small_agent("gaussian_ql", *overrides, seed=seed)
    modules = (agent.policy, agent.critic)
    return torch.cat([parameter.detach().flatten() for module in modules for parameter in module.parameters()])


def test_parameters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = parameters(3)
    torch.manual_seed(2)
    assert torch.equal(parameters(3), first)
    assert not torch.equal(parameters(4), first)


def test_making_an_agent_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    small_agent()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_making_an_agent_does_not_seed_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = Mock()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    small_agent()
    seeded.assert_not_called()


def test_normalization_standardises_observations_for_learning_and_acting() -> None:
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.1, 5.0])
    config = compose(["algorithm=gaussian_ql", "preset=smoke"])
    plain, scaled = (
        build_agent(config, observation_shape=(3,), action_dim=2, normalization=normalization)
        for normalization in (None, (mean, std))
    )
    observations = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    expected = plain.act((observations - mean.numpy()) / std.numpy(), generators[0])
    np.testing.assert_allclose(scaled.act(observations, generators[1]), expected, rtol=1e-5, atol=1e-6)

    batch = raw_batch()
    encoded = scaled.encode(batch)
    torch.testing.assert_close(encoded.features, (batch["observations"] - mean) / std)
    torch.testing.assert_close(encoded.next_features, (batch["next_observations"] - mean) / std)
    assert {"encoder.mean", "encoder.std"} <= scaled.state_dict().keys()


def test_a_constant_component_of_the_observation_stays_finite() -> None:
    config = compose(["algorithm=gaussian_ql", "preset=smoke"])
    normalization = (torch.tensor([0.0, 0.0, 7.0]), torch.tensor([1.0, 1.0, 0.0]))
    agent = build_agent(config, observation_shape=(3,), action_dim=2, normalization=normalization)
    observation = np.array([0.1, 0.2, 7.0], np.float32)
    assert np.isfinite(agent.act(observation)).all()
    assert agent.encode(raw_batch()).features.isfinite().all()


@pytest.mark.parametrize("shape", [(), (64, 64), (0,)])
def test_observations_that_are_not_vectors_are_refused(shape: Sequence[int]) -> None:
    with pytest.raises(ConfigError, match=r"observation_shape is .* observations must be vectors"):
        make_agent(observation_shape=shape, action_dim=2, overrides=["preset=smoke"])


def test_an_action_without_components_is_refused() -> None:
    with pytest.raises(ConfigError, match="action_dim 0"):
        make_agent(observation_shape=(3,), action_dim=0, overrides=["preset=smoke"])


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device is 'cuda:0', which this machine does not have; available: cpu"):
        make_agent(observation_shape=(3,), action_dim=2, device="cuda:0")


def test_a_policy_that_needs_a_critic_says_so() -> None:
    with pytest.raises(ConfigError, match=r"QGradient needs a critic, but critic is null.*critic=td"):
        small_agent("meanflow_ql", "critic=null")


def test_a_policy_that_cannot_rank_says_so() -> None:
    with pytest.raises(ConfigError, match=r"policy\.acting is 'best'; allowed: 'mean', 'single'"):
        small_agent("bc", "policy.acting=best")


def test_unknown_reformulation_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown reformulation 'residul'\. Did you mean 'residual'"):
        small_agent("meanflow_ql", "head.reformulation=residul")


@pytest.mark.parametrize("backbone", ["mlp", "dit"])
def test_an_odd_number_of_time_features_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match="time_features"):
        small_agent("meanflow_ql", f"head.backbone={backbone}", "head.backbone.time_features=5")


def test_a_seed_that_torch_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        small_agent(seed=2**70)


def test_a_recipe_path_may_hold_special_characters(tmp_path) -> None:
    path = tmp_path / "a, b (1)" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("head: gaussian\n")
    agent = make_agent(str(path), observation_shape=(3,), action_dim=2, overrides=["critic.hidden_dims=[8]"])
    assert isinstance(agent.policy.head, GaussianHead)
