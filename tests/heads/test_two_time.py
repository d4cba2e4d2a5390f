"""MeanFlow with two times: intervals, the network's inputs, sampling in several steps, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.heads import paths
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowDraws, MeanFlowHead
from genpolicy.heads.time_sampling import TimeError
from genpolicy.networks.dit import DiTConfig
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options
from tests.helpers import randomise

MLP = MLPConfig(hidden_dims=(9, 7), time_features=6)
DIT = DiTConfig(width=8, depth=2, time_features=6)
N = 6


def make(backbone: Options = MLP, **options: object) -> MeanFlowHead:
    config = MeanFlowConfig(backbone=backbone, **{"two_time": True} | options)
    return randomise(MeanFlowHead(config, feature_dim=3, action_dim=2))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    t = torch.rand(N, 1)
    return torch.randn(N, 3), torch.randn(N, 2), torch.randn(N, 2), t, t * torch.rand(N, 1)


@pytest.mark.parametrize("backbone", [MLP, DIT], ids=["mlp", "dit"])
def test_total_derivative_holds_r_fixed_along_the_path(backbone: Options) -> None:
    head, h = make(backbone), 1e-4
    features, action, noise, t, r = inputs()

    def g(time: Tensor) -> Tensor:
        return head.backbone(features, paths.interpolate(action, noise, time), r, time)

    terms = head.terms(features, action, noise, t, r)
    # fourth-order central differences: truncation h^4 = 1e-16, rounding 1e-16 / h = 1e-12
    difference = (8 * (g(t + h) - g(t - h)) - (g(t + 2 * h) - g(t - 2 * h))) / (12 * h)
    assert difference.abs().max() > 0.1
    torch.testing.assert_close(terms.dg_dt, difference, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(terms.g, g(t))


def test_target_is_that_of_the_interval() -> None:
    features, action, noise, t, r = inputs()
    terms = make().terms(features, action, noise, t, r)
    x_t, v = (1 - t) * action + t * noise, noise - action
    torch.testing.assert_close(terms.target, x_t + (t - r - 1) * v - (t - r) * terms.dg_dt)
    plain = make(reformulation="average_velocity").terms(features, action, noise, t, r)
    torch.testing.assert_close(plain.target, v - (t - r) * plain.dg_dt)


def test_rows_without_length_are_flow_matching() -> None:
    features, action, noise, t, _ = inputs()
    terms = make().terms(features, action, noise, t, t)
    torch.testing.assert_close(terms.target, terms.x_t - (noise - action))


def test_intervals_from_zero_are_what_one_time_learns() -> None:
    """A network that ignores r: loss, terms and action are those of the head with one time."""

    class WithoutLowerEnd(nn.Module):
        def __init__(self, network: nn.Module):
            super().__init__()
            self.network = network

        def forward(self, features: Tensor, x_t: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return self.network(features, x_t, t)

    options = {"consistency_weight": 0.5, "target_clip": 1.0}
    one, two = make(two_time=False, **options), make(**options)
    two.backbone = WithoutLowerEnd(one.backbone)
    features, action, noise, t, _ = inputs()
    draws = one.draw(N, torch.Generator().manual_seed(0))
    for zeros in ((), torch.zeros_like(t)):
        found = two.loss(features, action, draws._replace(r=zeros))
        torch.testing.assert_close(found.per_sample, one.loss(features, action, draws).per_sample)
    torch.testing.assert_close(two.sample(features, noise), one.sample(features, noise))


class Recorder(nn.Module):
    """A network that keeps what it is given and answers with a fixed average velocity (residual form)."""

    def __init__(self, velocity: Tensor):
        super().__init__()
        self.velocity, self.calls = velocity, []

    def forward(self, features: Tensor, x_t: Tensor, *times: Tensor) -> Tensor:
        self.calls.append((x_t, *times))
        return x_t - self.velocity


def test_sampling_steps_through_a_uniform_grid_and_gives_the_network_r_before_t() -> None:
    head, features, noise = make(sampling_steps=4), torch.randn(N, 3), torch.randn(N, 2)
    velocity = torch.randn(N, 2)
    head.backbone = Recorder(velocity)
    torch.testing.assert_close(head.sample(features, noise), noise - velocity)
    assert len(head.backbone.calls) == head.steps == 4
    for k, (x_t, r, t) in enumerate(head.backbone.calls):
        assert (r.item(), t.item()) == (1 - (k + 1) / 4, 1 - k / 4)
        assert r.shape == t.shape == (1, 1)  # shared by all rows
        torch.testing.assert_close(x_t, noise - k / 4 * velocity)


@pytest.mark.parametrize("reformulation", ["residual", "average_velocity", "double_residual", "time"])
def test_one_step_equals_a_jump_from_one_to_zero(reformulation: str) -> None:
    head, features, noise = make(reformulation=reformulation), torch.randn(N, 3), torch.randn(N, 2)
    ones = torch.ones(N, 1)
    jump = head.jump(features, noise, noise, ones, torch.zeros(N, 1))
    torch.testing.assert_close(head.sample(features, noise), jump)
    torch.testing.assert_close(head.jump(features, noise, noise, ones), jump)


def test_gradients_flow_through_all_steps_of_a_sample() -> None:
    head, features = make(sampling_steps=3), torch.randn(N, 3)
    noise = torch.randn(N, 2, requires_grad=True)
    head.sample(features, noise).sum().backward()
    assert noise.grad.abs().min() > 0
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_drawn_intervals_reach_the_loss(generator: torch.Generator) -> None:
    head = make(instant_share=0.3)
    draws = head.draw(2_000, generator)
    assert draws.r.shape == draws.t.shape == (2_000, 1)
    assert (draws.r <= draws.t).all()
    assert (draws.r == draws.t).double().mean().item() == pytest.approx(0.3, abs=0.05)
    features, action = torch.randn(2_000, 3), torch.randn(2_000, 2)
    terms = head.terms(features, action, draws.noise, draws.t, draws.r)
    error = (terms.g - terms.target.clamp(-5, 5)).square().mean()
    torch.testing.assert_close(head.loss(features, action, draws).metrics["regression_error"], error)
    other = head.loss(features, action, draws._replace(r=0 * draws.r)).metrics["regression_error"]
    assert (other - error).abs() > 1e-4


def test_the_default_configuration_draws_noise_then_time_then_the_consistency_terms() -> None:
    """Checkpoints rely on it: a resumed run must see the same numbers."""
    head = make(two_time=False, consistency_weight=1.0)
    draws, generator = head.draw(N, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(N, 2, generator=generator)

    def time() -> Tensor:
        return torch.rand(N, 1, generator=generator)

    for found in (draws.noise, draws.t, *draws.consistency):
        assert torch.equal(found, normal() if found.shape[1] == 2 else time())
    assert (draws.r, draws.objective) == ((), ())
    assert MeanFlowDraws(draws.noise, draws.t) == (draws.noise, draws.t, (), (), ())


# What is refused


@pytest.mark.parametrize("function", ["terms", "jump"])
@pytest.mark.parametrize(
    ("t", "r", "message"),
    [
        (1.25, None, r"t holds 1\.25; flow times lie in \[0, 1\]"),
        (-0.5, None, r"t holds -0\.5"),
        (float("nan"), None, "t holds nan"),
        (0.5, -0.25, r"r holds -0\.25"),
        (0.5, 0.75, r"r = 0\.75 above t = 0\.5; intervals are \[r, t\] with r <= t"),
    ],
)
def test_impossible_times_are_refused(function: str, t: float, r: float | None, message: str) -> None:
    features, action, noise, times, lower = inputs()
    times[3], lower[3] = t, 0.0 if r is None else r
    with pytest.raises(TimeError, match=message):
        getattr(make(), function)(features, action, noise, times, None if r is None else lower)


def test_the_ends_of_time_are_allowed() -> None:
    features, action, noise, t, _ = inputs()
    zeros, ones = torch.zeros_like(t), torch.ones_like(t)
    for times in ((zeros, zeros), (ones, zeros), (ones, ones)):
        assert make().terms(features, action, noise, *times).target.isfinite().all()


@pytest.mark.parametrize("function", ["terms", "jump"])
def test_a_head_with_one_time_refuses_a_lower_end(function: str) -> None:
    features, action, noise, t, r = inputs()
    head = make(two_time=False)
    with pytest.raises(ConfigError, match=r"one time.*head\.two_time=true"):
        getattr(head, function)(features, action, noise, t, r)
    with pytest.raises(ConfigError, match="one time"):
        head.loss(features, action, MeanFlowDraws(noise, t, r=r))


def test_several_steps_need_two_times() -> None:
    with pytest.raises(ConfigError, match=r"sampling_steps is 3.*two_time=true or sampling_steps=1"):
        MeanFlowConfig(sampling_steps=3)
    with pytest.raises(ConfigError, match=r"sampling_steps is 0; it must be at least 1"):
        MeanFlowConfig(two_time=True, sampling_steps=0)
