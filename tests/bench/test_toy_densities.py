"""The toy study's laws: densities integrate to one, samplers follow them, measures equal hand-computed numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2
from torch import Tensor

pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")

from genpolicy.bench.toy_measures import bound_measures, mode_measures, wasserstein
from genpolicy.data import toy
from genpolicy.errors import ConfigError

LINE = 1.5
CELLS = 24
ANGLES = {"turning_ring": 0.7}


def density_on_cells(density: toy.Density, angle: float) -> Tensor:
    """The law's probability of each of CELLS^2 cells of [-LINE, LINE]^2, by the midpoint rule on 16 x 16 points."""
    fine = CELLS * 16
    line = (torch.arange(fine, dtype=torch.float64) + 0.5) * (2 * LINE / fine) - LINE
    points = torch.cartesian_prod(line, line)
    mass = density.log_prob(points, angle).exp() * (2 * LINE / fine) ** 2
    return mass.reshape(CELLS, 16, CELLS, 16).sum(dim=(1, 3))


@pytest.mark.parametrize("name", toy.DENSITIES)
def test_a_density_integrates_to_one_and_its_sampler_follows_it(name: str, generator: torch.Generator) -> None:
    density, angle, n = toy.get_density(name), ANGLES.get(name, 0.0), 40_000
    expected = density_on_cells(density, angle)
    assert float(expected.sum()) == pytest.approx(1.0, abs=2e-3)

    samples = density.sample(torch.full((n,), angle), generator)
    assert samples.abs().max() <= 1.0
    index = ((samples.double() + LINE) / (2 * LINE / CELLS)).long().clamp(0, CELLS - 1)
    counts = torch.zeros(CELLS, CELLS, dtype=torch.float64).index_put_(
        (index[:, 0], index[:, 1]), torch.ones(n, dtype=torch.float64), accumulate=True
    )
    # Clipping moves samples onto the border of the box, so only cells inside of it are compared.
    edge = (torch.arange(CELLS) + 0.5) * (2 * LINE / CELLS) - LINE
    inside = (edge.abs() < 0.9)[:, None] & (edge.abs() < 0.9)
    compared = inside & (n * expected >= 10)
    squares = ((counts - n * expected) ** 2 / (n * expected))[compared]
    # One chance in a million of failing by luck, and the seed is fixed.
    assert float(squares.sum()) < chi2.ppf(1 - 1e-6, int(compared.sum()))
    assert counts[inside & (expected < 1e-9)].sum() == 0


def test_modes_of_the_turning_ring_turn_with_the_observation() -> None:
    density = toy.get_density("turning_ring")
    start, quarter, whole = density.modes(torch.tensor([0.0, math.pi, 2 * math.pi]))
    assert torch.allclose(start[0], torch.tensor([0.7, 0.0]))
    assert torch.allclose(quarter[0], 0.7 * torch.tensor([math.cos(math.pi / 4), math.sin(math.pi / 4)]))
    assert torch.allclose(whole[0], start[1], atol=1e-6)  # a quarter turn later, each mode is where the next one was


def test_the_grid_is_that_of_the_public_code() -> None:
    centres = toy.get_density("grid").modes(torch.zeros(()))
    assert sorted(set(centres.flatten().tolist())) == [-0.75, -0.25, 0.25, 0.75]
    assert len(centres) == 16 and toy.get_density("grid").sigma == 0.1
    peak = toy.get_density("grid").log_prob(torch.tensor([[0.25, 0.25]]))
    assert float(peak.exp()) == pytest.approx(1 / (16 * 2 * math.pi * 0.1**2), rel=1e-3)


def test_known_values() -> None:
    corner, best, second = torch.tensor([[1.0, 1.0], [0.75, 0.75], [-0.75, -0.25]])
    assert float(toy.slope(corner)) == 1.0 and float(toy.slope(2 * corner)) == 1.5
    assert float(toy.peaks(best)) == pytest.approx(1.0, abs=1e-3)
    assert float(toy.peaks(second)) == pytest.approx(0.9, abs=1e-3)


def test_distance_of_hand_computed_cases() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert wasserstein(square, square[[2, 0, 3, 1]]) == pytest.approx(0.0, abs=1e-6)  # the order does not count
    assert wasserstein(square, square + torch.tensor([3.0, 4.0])) == pytest.approx(5.0)
    # Two of four points move by 1: the mean squared distance is 1/2.
    assert wasserstein(square, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])) == pytest.approx(
        math.sqrt(0.5)
    )
    # Groups are not mixed: swapped groups are 5 apart though the union is the same.
    far = square + torch.tensor([3.0, 4.0])
    assert wasserstein(torch.stack([square, far]), torch.stack([far, square])) == pytest.approx(5.0)
    assert wasserstein(square, square / 0) == math.inf


def test_distance_equals_an_assignment_by_another_solver(generator: torch.Generator) -> None:
    first, second = torch.randn(60, 2, generator=generator), torch.rand(60, 2, generator=generator)
    costs = torch.cdist(first.double(), second.double()).square().numpy()
    rows, columns = linear_sum_assignment(costs)
    assert wasserstein(first, second) == pytest.approx(np.sqrt(costs[rows, columns].mean()), rel=1e-6)


def test_distance_without_pot_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ConfigError, match=r"genpolicy\[toy\]"):
        wasserstein(torch.zeros(2, 2), torch.zeros(2, 2))


def test_a_mode_counts_as_covered_from_a_quarter_of_its_share() -> None:
    density = toy.get_density("ring")
    modes, angle = density.modes(torch.zeros(())), torch.zeros(80)
    reference = modes.repeat(10, 1)  # ten on each of 8 modes
    nearly = torch.cat([modes[:1].repeat(2, 1), modes[1:2].repeat(3, 1), modes[2:].repeat(10, 1), torch.zeros(15, 2)])
    measures = mode_measures(nearly, angle, density, reference)
    assert measures == {"modes": 7 / 8, "sharpness": pytest.approx(65 / 80)}  # 2 of 10 is too few, 3 of 10 enough
    beside = reference + torch.tensor([0.0, 0.15])  # beyond the radius of 0.14
    assert mode_measures(beside, angle, density, reference) == {"modes": 0.0, "sharpness": 0.0}
    assert mode_measures(reference, angle, density, reference) == {"modes": 1.0, "sharpness": 1.0}


def test_what_lies_outside_the_bounds() -> None:
    actions = torch.tensor([[0.0, 1.0], [1.1, 0.0], [-3.0, 2.0], [0.5, 0.5]])
    assert bound_measures(actions) == {"outside": 0.5, "largest": 3.0}
    assert bound_measures(torch.tensor([[math.nan, 0.0], [0.0, 0.0]]))["outside"] == 0.5


@pytest.mark.parametrize("find", [toy.get_density, toy.get_value])
def test_an_unknown_name_lists_the_known_ones(find) -> None:
    known = "moons" if find is toy.get_density else "slope"
    with pytest.raises(ConfigError, match=f"'{known}'.*Known: "):
        find(known + "s")
