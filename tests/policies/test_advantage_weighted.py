import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.errors import ConfigError
from genpolicy.heads.mixture import MixtureConfig, MixtureHead
from genpolicy.networks.mlp import MLPConfig
from genpolicy.policies import AdvantageWeighted, AdvantageWeightedConfig
from genpolicy.policies.advantage_weighted import AdvantageWeightedDraws
from genpolicy.training.optimizer import Adam, OptimizerConfig
from tests.policies.stubs import A, B, StubHead, ValueCritic, make_batch

SLOPES = [[1.0, -0.5], [0.3, 2.0]]
TARGET = [[9.0, 9.0], [-9.0, 9.0]]


def make(**options: object) -> AdvantageWeighted:
    return AdvantageWeighted(AdvantageWeightedConfig(**options), head=StubHead(), total_steps=10)


def q_of(features: np.ndarray, actions: np.ndarray, agg: str) -> np.ndarray:
    qs = actions @ np.array(SLOPES).T + 0.1 * features.sum(-1, keepdims=True)
    return qs.min(-1) if agg == "min" else qs.mean(-1)


@pytest.mark.parametrize("q_agg", ["min", "mean"])
@pytest.mark.parametrize("baseline", ["value", "samples"])
def test_loss_equals_a_numpy_derivation(baseline: str, q_agg: str) -> None:
    batch, noise = make_batch(), torch.randn(3, B, A)
    draws = AdvantageWeightedDraws(torch.randn(B, A), noise if baseline == "samples" else ())
    features, actions = batch.features.numpy(), batch.actions.numpy()
    if baseline == "value":
        v = 0.3 * features[:, 0]
    else:
        own = np.clip(1.5 * noise.numpy() + features[:, :A], -1, 1)
        v = np.mean([q_of(features, one, q_agg) for one in own], axis=0)
    advantage = q_of(features, actions, q_agg) - v
    unclipped = np.exp(2.0 * advantage)
    limit = np.sort(unclipped)[2:4].mean().item()  # clips two of five
    weight = np.minimum(unclipped, limit)
    error = ((actions - 1.5 * draws.head.numpy()) ** 2).sum(-1)
    expected = {
        "loss": (weight * (error + 1)).mean(),
        "bc_loss": (error + 1).mean(),
        "advantage": advantage.mean(),
        "weight": weight.mean(),
        "clipped_weights": 2 / 5,
        "head/error": error.mean(),
    }
    policy = make(baseline=baseline, q_agg=q_agg, baseline_samples=3, inverse_temperature=2.0, max_weight=limit)
    found = policy.loss(batch, ValueCritic(SLOPES, TARGET), draws, {})
    torch.testing.assert_close(found.loss, torch.tensor(expected["loss"]))
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found.metrics[name], torch.tensor(value))
        assert not found.metrics[name].requires_grad
    assert found.state == {}


@pytest.mark.parametrize("baseline", ["value", "samples"])
def test_gradients_reach_the_head_through_its_loss_alone(baseline: str) -> None:
    policy, batch, critic = make(baseline=baseline, inverse_temperature=1.0), make_batch(), ValueCritic(SLOPES)
    draws = AdvantageWeightedDraws(torch.randn(B, A), torch.randn(1, B, A) if baseline == "samples" else ())
    policy.loss(batch, critic, draws, {}).loss.backward()
    assert critic.online.grad is None and critic.shift.grad is None
    weight = policy.advantage(batch, critic, draws.noise).exp().detach()
    slope = -2 * (draws.head * (batch.actions - 1.5 * draws.head)).sum(-1)
    torch.testing.assert_close(policy.head.gain.grad, (weight * slope).mean())


def test_an_exponent_beyond_the_range_of_numbers_is_clipped_too() -> None:
    batch = make_batch()._replace(actions=torch.ones(B, A))
    policy = make(inverse_temperature=1e6, q_agg="mean")
    critic = ValueCritic([[10.0, 10.0]])
    found = policy.loss(batch, critic, AdvantageWeightedDraws(torch.zeros(B, A), ()), {})
    assert found.metrics["weight"] == 100 and found.metrics["clipped_weights"] == 1
    assert torch.isfinite(found.loss)


def test_a_temperature_without_end_is_behaviour_cloning() -> None:
    policy, batch, draws = make(inverse_temperature=0.0), make_batch(), AdvantageWeightedDraws(torch.randn(B, A), ())
    found = policy.loss(batch, ValueCritic(SLOPES), draws, {})
    torch.testing.assert_close(found.loss, policy.pretrain_loss(batch, draws).loss)


def test_draws_hold_noise_for_the_baseline_only_where_it_samples(generator: torch.Generator) -> None:
    assert make().draw(B, generator).noise == ()
    draws = make(baseline="samples", baseline_samples=4).draw(B, generator)
    assert draws.head.shape == (B, A) and draws.noise.shape == (4, B, A)


def test_without_a_critic_the_loss_says_what_to_choose() -> None:
    with pytest.raises(ConfigError, match="AdvantageWeighted needs a critic, but critic is null"):
        make().loss(make_batch(), None, AdvantageWeightedDraws(torch.randn(B, A), ()), {})


class BanditCritic(ValueCritic):
    """Q = slope * action, V = 0."""

    def q(self, features: Tensor, action: Tensor) -> Tensor:
        return torch.stack([0.8 * action[..., 0]])

    def value(self, features: Tensor) -> Tensor:
        return torch.zeros_like(features[..., 0])


def test_mass_of_two_arms_moves_by_the_exponential_of_their_advantages() -> None:
    """Arms at -0.5 and 0.5, as frequent in the data, Q = 0.8 a: the log ratio of masses becomes 2 * 0.8 = 1.6."""
    config = MixtureConfig(backbone=MLPConfig(hidden_dims=(8,), output_init_scale=0.0), components=2, log_std_min=-2.0)
    head = MixtureHead(config, feature_dim=1, action_dim=1)
    policy = AdvantageWeighted(AdvantageWeightedConfig(inverse_temperature=2.0), head=head, total_steps=300)
    features = torch.ones(2, 1)
    batch = Batch(features, torch.tensor([[-0.5], [0.5]]), *[torch.zeros(2)] * 4)
    optimizer = Adam(policy, OptimizerConfig(learning_rate=0.03), total_steps=300)
    for _ in range(300):
        loss = policy.loss(batch, BanditCritic([[0.0, 0.0]]), AdvantageWeightedDraws((), ()), {}).loss
        optimizer.step(torch.autograd.grad(loss, optimizer.parameters))
    mixture = head.distribution(features[:1])
    low, high = mixture.log_weights[0][mixture.mean[0, :, 0].argsort()]
    # the arms are 7 standard deviations (e^-2) apart, so components and arms are the same up to 1e-3
    assert (high - low).item() == pytest.approx(1.6, abs=0.01)
