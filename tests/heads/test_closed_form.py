"""Gaussian data, for which every velocity has a closed form: what all forms and objectives must reproduce."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from genpolicy.heads import paths
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.heads.objectives import OBJECTIVES
from genpolicy.heads.reformulations import Reformulation
from genpolicy.networks.mlp import MLPConfig
from tests.heads import oracle
from tests.heads.test_reformulations import FORMS

N = 60
SETTINGS = [pytest.param(False, "meanflow", id="one_time")]
SETTINGS += [pytest.param(True, name, id=name) for name in OBJECTIVES.names()]
EXACT = [one for one in SETTINGS if one.id != "alpha"]


def make(two_time: bool = True, objective: str = "meanflow", **options: object) -> MeanFlowHead:
    config = MeanFlowConfig(backbone=MLPConfig(hidden_dims=(4,)), two_time=two_time, objective=objective, **options)
    return MeanFlowHead(config, feature_dim=1, action_dim=2)


def with_oracle(form: Reformulation, noise: Tensor, *settings: object, **options: object) -> MeanFlowHead:
    """A head of that form whose network knows the exact average velocity, and the noise of every row."""
    head = make(*settings, **options)
    head.reformulation = form
    head.backbone = oracle.Oracle(lambda u, x_t, t: form.output(u, x_t, noise, t))
    return head


def rows(two_time: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points with intervals of all kinds: from 0, of no length, in between."""
    x_t, t = 2 * torch.randn(N, 2), 0.05 + 0.95 * torch.rand(N, 1)
    t[:5] = 1.0
    r = t * torch.rand(N, 1)
    r[3:20], r[20:30] = 0.0, t[20:30]
    return x_t, t, r if two_time else None


def own_numbers(objective: str) -> Tensor | None:
    return {"split": torch.rand(N, 1), "alpha": torch.full((N, 1), 0.05)}.get(objective)


def target_error(
    form: Reformulation, two_time: bool, objective: str, times: tuple, pair: tuple[Tensor, Tensor], numbers: object
) -> Tensor:
    """g* - g with the exact u in place of the network."""
    t, r = times
    terms = with_oracle(form, pair[1], two_time, objective).terms(torch.empty(len(t), 1), *pair, t, r, numbers)
    return terms.target - terms.g


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("two_time", "objective"), EXACT)
def test_the_exact_average_velocity_has_no_target_error_along_the_flow(
    form: Reformulation, two_time: bool, objective: str
) -> None:
    x_t, t, r = rows(two_time)
    pair = oracle.pair_moving_with_the_flow(x_t, t)
    error = target_error(form, two_time, objective, (t, r), pair, own_numbers(objective))
    assert error.abs().max() < 1e-11


@pytest.mark.parametrize("form", FORMS)
def test_the_error_of_alpha_flow_vanishes_with_alpha(form: Reformulation) -> None:
    """Its step from x_t to x_s is straight, so that the exact u is its fixed point in the limit only: order 1."""
    x_t, t, r = rows(True)
    pair = oracle.pair_moving_with_the_flow(x_t, t)
    errors = [
        target_error(form, True, "alpha", (t, r), pair, torch.full((N, 1), alpha)).abs() for alpha in (1e-3, 5e-4)
    ]
    assert errors[0].max() < 0.02
    instant = (r == t).flatten()
    assert errors[0][instant].max() < 1e-11
    large = errors[0] > 1e-4
    assert large.sum() > N / 2
    torch.testing.assert_close((errors[0] / errors[1])[large], torch.full_like(errors[0][large], 2.0), atol=0.1, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("two_time", "objective"), SETTINGS)
def test_pairs_on_both_sides_of_the_flow_have_opposite_errors(
    form: Reformulation, two_time: bool, objective: str
) -> None:
    """With noise - action itself: the target is linear in it, so errors cancel exactly in antithetic pairs."""
    x_t, t, r = rows(two_time)
    spread, numbers = torch.randn(N, 2), own_numbers(objective)

    def errors(sign: float) -> Tensor:
        pair = oracle.pairs_through(x_t, t, sign * spread)
        return target_error(form, two_time, objective, (t, r), pair, numbers)

    one, other = errors(1.0), errors(-1.0)
    flow = oracle.pair_moving_with_the_flow(x_t, t)
    along_the_flow = target_error(form, two_time, objective, (t, r), flow, numbers)
    torch.testing.assert_close((one + other) / 2, along_the_flow, atol=1e-10, rtol=1e-10)
    seeing_data = (r == t).flatten() if objective == "split" else slice(None)
    assert one[seeing_data].abs().median() > 0.05


@pytest.mark.parametrize(("two_time", "objective"), EXACT)
def test_errors_are_zero_on_average_over_the_law_of_the_data(two_time: bool, objective: str) -> None:
    """For one x_t, over actions and noise given x_t. 5 standard errors: a false alarm in a million numbers."""
    draws = 2_000
    x_t, t, r, numbers = (
        None if one is None else one.repeat(draws, 1) for one in (*rows(two_time), own_numbers(objective))
    )
    (residual,) = (one.values[0] for one in FORMS if one.id == "residual")
    pairs = oracle.pairs_through(x_t, t, torch.randn(draws * N, 2))
    errors = target_error(residual, two_time, objective, (t, r), pairs, numbers).view(draws, N, 2)
    standard_error = errors.std(0) / draws**0.5
    assert standard_error.max() > 0.01
    assert (errors.mean(0).abs() < 5 * standard_error + 1e-11).all()


def test_pairs_through_a_point_have_the_law_of_the_data(generator: torch.Generator) -> None:
    """Averaged over x_t they are independent N(m, s^2) and N(0, 1); within 5 standard errors."""
    n, t = 20_000, torch.tensor([[0.4]])
    x_t = (1 - t) * oracle.MEAN + oracle.variance(t).sqrt() * torch.randn(n, 2, generator=generator)
    action, noise = oracle.pairs_through(x_t, t, torch.randn(n, 2, generator=generator))
    torch.testing.assert_close(paths.interpolate(action, noise, t), x_t)
    bound = 5 / n**0.5
    assert ((action.mean(0) - oracle.MEAN).abs() < bound * oracle.STD).all() and (noise.mean(0).abs() < bound).all()
    assert ((action.std(0) / oracle.STD - 1).abs() < bound).all() and ((noise.std(0) - 1).abs() < bound).all()
    assert torch.corrcoef(torch.stack([action[:, 0], noise[:, 0]]))[0, 1].abs() < bound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_actions_of_any_number_of_steps_have_exactly_the_law_of_the_data(form: Reformulation, steps: int) -> None:
    noise = torch.randn(3, 40, 2)
    head = with_oracle(form, noise, sampling_steps=steps)
    assert head.steps == steps
    torch.testing.assert_close(
        head.sample(torch.empty(3, 40, 1), noise), oracle.MEAN + oracle.STD * noise, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("form", FORMS)
def test_one_time_actions_have_exactly_the_law_of_the_data(form: Reformulation) -> None:
    noise = torch.randn(3, 40, 2)
    found = with_oracle(form, noise, False).sample(torch.empty(3, 40, 1), noise)
    torch.testing.assert_close(found, oracle.MEAN + oracle.STD * noise, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_jump_is_the_flow_between_its_times(form: Reformulation) -> None:
    x_t, t, r = rows(True)
    noise = torch.randn(N, 2)
    found = with_oracle(form, noise).jump(torch.empty(N, 1), x_t, noise, t, r)
    torch.testing.assert_close(found, oracle.flow(x_t, r, t))
    one_time = with_oracle(form, noise, False).jump(torch.empty(N, 1), x_t, noise, t)
    torch.testing.assert_close(one_time, oracle.flow_to_action(x_t, t))


def test_the_oracles_agree_with_an_integration_of_the_marginal_velocity() -> None:
    """Runge-Kutta of order 4 with 200 steps: an error of about 1e-9."""
    x, t, r = 2 * torch.randn(20, 2), torch.full((20, 1), 0.9), torch.full((20, 1), 0.2)
    start, h = x, (r - t) / 200
    for k in range(200):
        time = t + k * h
        k1 = oracle.marginal_velocity(x, time)
        k2 = oracle.marginal_velocity(x + h / 2 * k1, time + h / 2)
        k3 = oracle.marginal_velocity(x + h / 2 * k2, time + h / 2)
        k4 = oracle.marginal_velocity(x + h * k3, time + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    torch.testing.assert_close(oracle.flow(start, r, t), x, atol=1e-7, rtol=0)
    torch.testing.assert_close(oracle.interval_velocity(start, r, t), (start - x) / (t - r), atol=1e-7, rtol=0)
    torch.testing.assert_close(oracle.interval_velocity(start, t, t), oracle.marginal_velocity(start, t))
    torch.testing.assert_close(oracle.interval_velocity(start, 0 * t, t), oracle.avg_velocity(start, t))


class LinearInX(nn.Module):
    """g = scale(times) x_t + shift(times), as the exact average velocity of Gaussian data is."""

    def __init__(self, num_times: int):
        super().__init__()
        layers = [nn.Linear(num_times, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4)]
        self.net = nn.Sequential(*layers)

    def forward(self, features: Tensor, x_t: Tensor, *times: Tensor) -> Tensor:
        given = torch.cat([t.expand(*x_t.shape[:-1], 1) for t in times], dim=-1)
        scale, shift = self.net(given).chunk(2, dim=-1)
        return scale * x_t + shift


@pytest.fixture
def single_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


LEARNED = {"one_time": 0.03, "meanflow": 0.1, "improved": 0.15, "split": 0.15, "alpha": 0.15}


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(("two_time", "objective"), SETTINGS)
def test_a_small_network_learns_the_flow(
    two_time: bool, objective: str, generator: torch.Generator, request: pytest.FixtureRequest
) -> None:
    """Root mean square distance to m + s noise, which is 0.3 for a network that learns the mean only."""
    torch.manual_seed(0)
    head = make(two_time, objective, adaptive_gamma=1.0, target_clip=None, curriculum_end=0.6)
    head.backbone = LinearInX(2 if two_time else 1)
    mean, rows, steps = oracle.MEAN.float(), 256, 800
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        action = mean + oracle.STD * torch.randn(rows, 2, generator=generator)
        draws = head.draw_at(step / steps, rows, generator)
        optimizer.zero_grad()
        head.loss(torch.empty(rows, 1), action, draws).per_sample.mean().backward()
        optimizer.step()
        schedule.step()
    noise = torch.randn(4_000, 2, generator=generator)
    with torch.no_grad():
        error = head.sample(torch.empty(4_000, 1), noise) - (mean + oracle.STD * noise)
        assert error.square().mean().sqrt() < LEARNED[request.node.callspec.id]
        if two_time:
            head.steps = 4
            error = head.sample(torch.empty(4_000, 1), noise) - (mean + oracle.STD * noise)
            assert error.square().mean().sqrt() < 0.1
