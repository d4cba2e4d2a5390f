import math

import pytest
import torch
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.training.optimizer import Adam, OptimizerConfig, learning_rate
from tests.helpers import double_precision

__all__ = ["double_precision"]


def make_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def gradients_of(network: nn.Module, step: int) -> list[Tensor]:
    """Gradients whose norm changes much from step to step, so that clipping is not a mere change of unit."""
    loss = (10.0**step - 50) / 20 * network(torch.linspace(-1, 1, 6).reshape(2, 3)).square().sum()
    return list(torch.autograd.grad(loss, list(network.parameters())))


def assert_same_parameters(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3}, {"beta1": 0.0}, {"learning_rate": 0.1}]
)
def test_steps_equal_those_of_torch(options: dict[str, float]) -> None:
    ours, theirs = make_network(), make_network()
    config = OptimizerConfig(**options)
    adam = Adam(ours, config, total_steps=10)
    reference = torch.optim.Adam(
        theirs.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps
    )
    for step in range(4):
        adam.step(gradients_of(ours, step))
        for parameter, gradient in zip(theirs.parameters(), gradients_of(theirs, step), strict=True):
            parameter.grad = gradient
        reference.step()
        assert_same_parameters(ours, theirs)
    assert adam.count.item() == 4


@pytest.mark.parametrize("compiling", [False, True])
def test_clipped_steps_equal_those_of_torch(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    ours, theirs, norms = make_network(), make_network(), []
    adam = Adam(ours, OptimizerConfig(learning_rate=0.01, max_grad_norm=11.0), total_steps=10)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for step in range(4):
        metrics = adam.step(gradients_of(ours, step))
        for parameter, gradient in zip(theirs.parameters(), gradients_of(theirs, step), strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 11.0)
        # torch divides by norm + 1e-6
        torch.testing.assert_close(metrics["grad_norm"], norm, rtol=1e-5, atol=0)
        norms.append(norm.item())
        reference.step()
    assert min(norms) < 11 < max(norms)
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-8)


def test_a_gradient_below_the_limit_is_not_changed() -> None:
    clipped, plain = make_network(), make_network()
    gradients = [1e-3 * gradient for gradient in gradients_of(plain, 0)]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for network, limit in ((clipped, norm.item() * 1.01), (plain, None)):
        adam = Adam(network, OptimizerConfig(max_grad_norm=limit), total_steps=10)
        metrics = adam.step([gradient.clone() for gradient in gradients])
        torch.testing.assert_close(metrics["grad_norm"], norm)
    assert_same_parameters(clipped, plain, rtol=0, atol=0)


def test_first_step_by_hand_with_a_clipped_gradient() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    module = nn.ParameterList([parameter])
    adam = Adam(module, OptimizerConfig(learning_rate=0.5, max_grad_norm=1.0, eps=0.1), total_steps=10)
    adam.step([torch.tensor([3.0, -4.0])])
    # clipped to (0.6, -0.8); moments corrected for their bias are the gradient and its square
    expected = [1 - 0.5 * 0.6 / 0.7, 2 + 0.5 * 0.8 / 0.9]
    torch.testing.assert_close(parameter.detach(), torch.tensor(expected))


def test_zero_gradients_change_nothing() -> None:
    network, before = make_network(), make_network()
    adam = Adam(network, OptimizerConfig(max_grad_norm=1.0), total_steps=10)
    metrics = adam.step([torch.zeros_like(parameter) for parameter in adam.parameters])
    assert metrics["grad_norm"] == 0
    assert_same_parameters(network, before, rtol=0, atol=0)


def test_frozen_parameters_are_left_out() -> None:
    network = make_network()
    network[0].requires_grad_(False)
    adam = Adam(network, OptimizerConfig(), total_steps=10)
    assert adam.names == ["2.weight", "2.bias"]
    before = network[0].weight.clone()
    adam.step([torch.ones_like(parameter) for parameter in adam.parameters])
    assert torch.equal(network[0].weight, before)


def test_state_names_the_moments_and_restores_an_optimiser_when_copied() -> None:
    first, second = make_network(), make_network()
    one = Adam(first, OptimizerConfig(), total_steps=10)
    for step in range(2):
        one.step(gradients_of(first, step))
    names = [name for name, _ in first.named_parameters()]
    assert list(one.state()) == ["count", *(f"first.{n}" for n in names), *(f"second.{n}" for n in names)]

    second.load_state_dict(first.state_dict())
    other = Adam(second, OptimizerConfig(), total_steps=10)
    for name, tensor in other.state().items():
        tensor.copy_(one.state()[name])
    one.step(gradients_of(first, 2))
    other.step(gradients_of(second, 2))
    assert_same_parameters(first, second, rtol=0, atol=0)


def rates(config: OptimizerConfig, counts: list[int], total: int) -> list[float]:
    return [learning_rate(config, torch.tensor(count), total).item() for count in counts]


def test_constant_learning_rate() -> None:
    assert rates(OptimizerConfig(learning_rate=0.25), [0, 5, 100], 10) == [0.25] * 3


def test_cosine_learning_rate_warms_up_falls_and_stays() -> None:
    config = OptimizerConfig(learning_rate=0.8, schedule="cosine", warmup_fraction=0.1, min_ratio=0.25)
    found = rates(config, [0, 5, 10, 40, 55, 100, 300], 100)
    # 10 steps of warm-up, then from 0.8 to 0.2 over 90
    expected = [0.0, 0.4, 0.8, 0.2 + 0.3 * (1 + math.cos(math.pi / 3)), 0.5, 0.2, 0.2]
    assert found == pytest.approx(expected, rel=1e-6)


def test_cosine_without_warm_up_starts_at_the_base() -> None:
    config = OptimizerConfig(learning_rate=0.8, schedule="cosine", warmup_fraction=0.0, min_ratio=0.0)
    assert rates(config, [0, 50, 100], 100) == pytest.approx([0.8, 0.4, 0.0], abs=1e-7)


@pytest.mark.parametrize("total", [0, 1])
def test_cosine_of_a_run_of_almost_no_steps_is_finite(total: int) -> None:
    config = OptimizerConfig(learning_rate=0.8, schedule="cosine")
    assert all(math.isfinite(rate) for rate in rates(config, [0, 1, 2], total))


def test_each_step_uses_the_rate_of_the_steps_before_it() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_fraction=0.5, min_ratio=0.0, eps=1e-300)
    parameter = nn.Parameter(torch.zeros(1))
    adam = Adam(nn.ParameterList([parameter]), config, total_steps=8)
    moves, used = [], []
    for _ in range(6):
        before = parameter.item()
        used.append(adam.step([torch.ones(1)])["learning_rate"].item())
        moves.append(before - parameter.item())
    # under equal gradients Adam moves by the rate; 4 steps of warm-up from 0
    expected = [0.0, 0.25, 0.5, 0.75, 1.0, (1 + math.cos(math.pi / 4)) / 2]
    assert used == pytest.approx(expected, rel=1e-6)
    assert moves == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("option", ["beta1", "beta2"])
def test_moments_that_never_decay_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"OptimizerConfig\.{option} is 1\.0"):
        OptimizerConfig(**{option: 1.0})
