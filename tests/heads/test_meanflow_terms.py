"""The parts of the MeanFlow regression: derivative, exact recovery with an oracle, laws of noise and time."""

import pytest
import torch
from torch import Tensor

from genpolicy.heads import paths
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.networks.dit import DiTConfig
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options
from tests.heads import oracle
from tests.helpers import randomise

MLP = MLPConfig(hidden_dims=(9, 7), layer_norm=True, time_features=6)
DIT = DiTConfig(width=8, depth=2, time_features=6)


def make(backbone: Options = MLP, **options: object) -> MeanFlowHead:
    return randomise(MeanFlowHead(MeanFlowConfig(backbone=backbone, **options), feature_dim=3, action_dim=2))


@pytest.mark.parametrize("backbone", [MLP, DIT], ids=["mlp", "dit"])
def test_total_derivative_equals_finite_differences_along_the_path(backbone: Options) -> None:
    head, h = make(backbone), 1e-4
    features, action, noise, t = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 2), torch.rand(6, 1)

    def g(time: Tensor) -> Tensor:
        return head.backbone(features, paths.interpolate(action, noise, time), time)

    terms = head.terms(features, action, noise, t)
    # fourth-order central differences: truncation h^4 = 1e-16, rounding 1e-16 / h = 1e-12
    difference = (8 * (g(t + h) - g(t - h)) - (g(t + 2 * h) - g(t - 2 * h))) / (12 * h)
    assert difference.abs().max() > 0.1
    torch.testing.assert_close(terms.dg_dt, difference, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(terms.g, g(t))


def test_terms_are_those_of_the_path() -> None:
    head = make()
    features, action, noise, t = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 2), torch.rand(6, 1)
    terms = head.terms(features, action, noise, t)
    torch.testing.assert_close(terms.x_t, (1 - t) * action + t * noise)
    torch.testing.assert_close(terms.velocity, noise - action)
    torch.testing.assert_close(terms.target, terms.x_t + (t - 1) * terms.velocity - t * terms.dg_dt)


def with_oracle(**options: object) -> MeanFlowHead:
    head = make(**options)
    head.backbone = oracle.Oracle(lambda u, x_t, t: x_t - u)
    return head


def test_exact_average_velocity_has_no_target_error() -> None:
    """Along the marginal flow; the target is linear in the velocity, so its mean over pairs is the same."""
    x_t, t = torch.randn(100, 2), 0.02 + 0.98 * torch.rand(100, 1)
    action, noise = oracle.pair_moving_with_the_flow(x_t, t)
    terms = with_oracle().terms(torch.empty(100, 3), action, noise, t)
    torch.testing.assert_close(terms.x_t, x_t)
    torch.testing.assert_close(terms.target, terms.g, atol=1e-10, rtol=1e-10)


def test_target_averaged_over_the_pairs_through_a_point_is_the_exact_output() -> None:
    """Antithetic pairs (a, e) with the same x_t, symmetric about the conditional mean of a given x_t."""
    head, t = with_oracle(), 0.05 + 0.9 * torch.rand(40, 1)
    x_t, spread = torch.randn(40, 2), torch.randn(40, 2)
    action, _ = oracle.pair_moving_with_the_flow(x_t, t)
    pairs = [(one, (x_t - (1 - t) * one) / t) for one in (action + spread, action - spread)]
    first, second = (head.terms(torch.empty(40, 3), one, noise, t) for one, noise in pairs)
    torch.testing.assert_close(first.x_t, second.x_t)
    assert (first.target - first.g).abs().max() > 0.01
    torch.testing.assert_close((first.target + second.target) / 2, first.g, atol=1e-10, rtol=1e-10)


def test_one_step_action_of_the_exact_average_velocity_has_the_law_of_the_data() -> None:
    noise = torch.randn(3, 50, 2)
    action = with_oracle().sample(torch.empty(3, 50, 3), noise)
    torch.testing.assert_close(action, oracle.MEAN + oracle.STD * noise)


def test_gaussian_noise_has_the_standard_deviation_asked_for(generator: torch.Generator) -> None:
    noise = make(noise_scale=0.7).noise(20_000, generator)
    assert noise.mean().abs() < 0.02
    assert float(noise.std()) == pytest.approx(0.7, rel=0.02)
    assert float((noise / 0.7).abs().lt(1).double().mean()) == pytest.approx(0.6827, abs=0.01)


def test_uniform_noise_fills_minus_one_to_one_and_is_not_scaled(generator: torch.Generator) -> None:
    noise = make(noise="uniform", noise_scale=0.7).noise(20_000, generator)
    assert noise.abs().max() <= 1
    assert float(noise.min()) == pytest.approx(-1, abs=1e-3) and float(noise.max()) == pytest.approx(1, abs=1e-3)
    assert float(noise.var()) == pytest.approx(1 / 3, rel=0.03)


@pytest.mark.parametrize(("noise", "limit"), [("uniform", 1.0), ("gaussian", None)])
def test_loss_and_acting_draw_noise_of_the_same_law(
    noise: str, limit: float | None, generator: torch.Generator
) -> None:
    head = make(noise=noise, noise_scale=2.0, consistency_weight=1.0)
    draws = head.draw(20_000, generator)
    for drawn in (draws.noise, draws.consistency.noise):
        expected = 3**-0.5 if limit else 2.0
        assert float(drawn.std()) == pytest.approx(expected, rel=0.03)


def test_discrete_times_lie_on_the_grid_from_one_step_to_one(generator: torch.Generator) -> None:
    draws = make(time_steps=4, consistency_weight=1.0).draw(2_000, generator)
    for t in (draws.t, draws.consistency.t_first, draws.consistency.t_second):
        assert t.shape == (2_000, 1)
        values, counts = t.unique(return_counts=True)
        assert values.tolist() == [0.25, 0.5, 0.75, 1.0]
        assert counts.min() > 400


def test_continuous_times_are_uniform(generator: torch.Generator) -> None:
    t = make().draw(20_000, generator).t
    assert t.min() >= 0 and t.max() < 1
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(t.var()) == pytest.approx(1 / 12, rel=0.03)


def test_draws_of_the_consistency_term_are_independent_of_the_main_ones(generator: torch.Generator) -> None:
    draws = make(consistency_weight=1.0).draw(1_000, generator)
    times = torch.cat([draws.t, draws.consistency.t_first, draws.consistency.t_second], 1)
    off_diagonal = torch.corrcoef(times.T) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.1
    assert torch.corrcoef(torch.stack([draws.noise[:, 0], draws.consistency.noise[:, 0]]))[0, 1].abs() < 0.1
    assert make().draw(5, generator).consistency == ()
