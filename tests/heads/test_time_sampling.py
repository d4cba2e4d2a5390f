"""Laws of flow times: what is drawn, on which grid, how often the noise end, and which intervals."""

import pytest
import torch

from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.heads.meanflow import MeanFlowConfig, MeanFlowHead
from genpolicy.heads.time_sampling import TimeError, TimeSampler, check_times
from genpolicy.networks.mlp import MLPConfig

N = 20_000
ERROR = 5 / N**0.5
"""5 standard errors of a mean of numbers with a variance of 1."""


def logit(t: torch.Tensor) -> torch.Tensor:
    return torch.log(t / (1 - t))


def test_logit_normal_times_have_a_normal_logit(generator: torch.Generator) -> None:
    t = TimeSampler("logit_normal", -0.4, 0.7).draw(N, generator)
    assert t.shape == (N, 1) and t.min() > 0 and t.max() < 1
    standard = (logit(t) + 0.4) / 0.7
    assert standard.mean().abs() < ERROR and (standard.std() - 1).abs() < ERROR
    assert (standard.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=ERROR / 2)


@pytest.mark.parametrize("steps", [50, 100, 1000])
def test_uniform_times_on_a_grid(steps: int, generator: torch.Generator) -> None:
    t = TimeSampler(steps=steps).draw(N, generator)
    torch.testing.assert_close(t * steps, (t * steps).round())
    assert t.min().item() >= 1 / steps and t.max().item() == 1
    assert len(t.unique()) > 0.99 * steps
    assert t.mean().item() == pytest.approx((steps + 1) / (2 * steps), abs=ERROR / 3)


def test_logit_normal_times_on_a_grid_are_rounded_up(generator: torch.Generator) -> None:
    smooth = TimeSampler("logit_normal", 0.3, 1.0).draw(N, generator.clone_state())
    t = TimeSampler("logit_normal", 0.3, 1.0, steps=5).draw(N, generator)
    assert t.unique().tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    rise = t - smooth
    assert rise.min() >= 0 and rise.max() <= 0.2


@pytest.mark.parametrize("steps", [None, 10])
def test_a_share_of_the_times_is_raised_to_one(steps: int | None, generator: torch.Generator) -> None:
    plain = TimeSampler(steps=steps).draw(N, generator.clone_state())
    raised = TimeSampler(steps=steps, noise_share=0.25).draw(N, generator)
    changed = raised != plain
    assert (raised[changed] == 1).all()
    already_one = 0.0 if steps is None else 0.1
    assert changed.double().mean().item() == pytest.approx(0.25 * (1 - already_one), abs=ERROR)
    # independent of the time that was drawn
    assert plain[changed].mean().item() == pytest.approx(plain[plain < 1].mean().item(), abs=2 * ERROR)
    assert (TimeSampler(noise_share=1.0).draw(100, generator) == 1).all()


def test_intervals_are_two_ordered_times(generator: torch.Generator) -> None:
    r, t = TimeSampler().draw_interval(N, generator, instant_share=0.0)
    assert r.shape == t.shape == (N, 1)
    assert (r < t).all()
    # smaller and larger of two uniform numbers: means 1/3 and 2/3, and each other's square law
    assert r.mean().item() == pytest.approx(1 / 3, abs=ERROR / 3)
    assert t.mean().item() == pytest.approx(2 / 3, abs=ERROR / 3)
    assert (t**2).lt(0.25).double().mean().item() == pytest.approx(0.25, abs=ERROR / 2)


def test_intervals_on_a_grid_reach_both_ends(generator: torch.Generator) -> None:
    r, t = TimeSampler(steps=4).draw_interval(N, generator, instant_share=0.0)
    assert r.unique().tolist() == [0.0, 0.25, 0.5, 0.75]
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert (r < t).all()
    assert ((r == 0) & (t == 1)).double().mean().item() == pytest.approx(2 / 16, abs=ERROR)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_intervals_has_no_length(share: float, generator: torch.Generator) -> None:
    sampler = TimeSampler("logit_normal", noise_share=0.2)
    _, expected = sampler.draw_interval(N, generator.clone_state(), instant_share=0.0)
    r, t = sampler.draw_interval(N, generator, instant_share=share)
    assert torch.equal(t, expected)  # the law of t stays
    instant = r == t
    assert instant.double().mean().item() == pytest.approx(share, abs=ERROR)
    assert ((t == 1) & ~instant).double().mean().item() == pytest.approx(0.2 * (1 - share), abs=ERROR)


def make(**options: object) -> MeanFlowHead:
    return MeanFlowHead(MeanFlowConfig(backbone=MLPConfig(hidden_dims=(4,)), **options), feature_dim=3, action_dim=2)


@pytest.mark.parametrize("two_time", [False, True])
def test_the_options_of_the_head_reach_its_times(two_time: bool, generator: torch.Generator) -> None:
    options = {"time_law": "logit_normal", "time_mean": 1.0, "time_std": 0.1, "noise_share": 0.3}
    head = make(two_time=two_time, consistency_weight=1.0, **options)
    draws = head.draw(N, generator)
    for t in (draws.t, draws.consistency.t_first, draws.consistency.t_second):
        assert (t == 1).double().mean().item() == pytest.approx(0.3, abs=ERROR)
        below = logit(t[t < 1])
        assert below.mean().item() == pytest.approx(1.06 if t is draws.t and two_time else 1.0, abs=0.02)
    grid = make(time_law="logit_normal", time_steps=3, two_time=two_time).draw(N, generator).t
    assert set((3 * grid).round().flatten().tolist()) == {1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_std": 0.0}, "time_std is 0"),
        ({"noise_share": 1.5}, r"noise_share is 1\.5; it must be at most 1"),
        ({"instant_share": -0.1}, "instant_share"),
        ({"time_steps": 0}, "time_steps is 0"),
    ],
)
def test_impossible_laws_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeanFlowConfig(**options)


def test_check_times_names_the_value_and_the_rule() -> None:
    t, r = torch.tensor([[0.2], [0.6]]), torch.tensor([[0.1], [0.7]])
    with pytest.raises(TimeError, match=r"r = 0\.7 above t = 0\.6"):
        check_times(t, r)
    check_times(t, torch.minimum(r, t))
    assert issubclass(TimeError, GenpolicyError) and issubclass(TimeError, ValueError)
