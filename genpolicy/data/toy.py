"""Two-dimensional action distributions and values that are known exactly: bandits to look at what a head learns."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import ConfigError, suggest

OBSERVATION_DIM, ACTION_DIM = 2, 2
GRID_SIGMA = 0.1
"""Standard deviation of a component of the grid."""
SQUARES = 4
"""Squares along each side of the checkerboard."""


@dataclass(frozen=True)
class Density:
    """A law of actions in the plane, given an angle that the observation shows as (cos angle, sin angle).

    A density is a mixture of round Gaussians, or uniform on squares; samples are clipped to the action box [-1, 1].
    """

    name: str
    summary: str
    centres: Callable[[Tensor], Tensor]
    """angle (\\*batch,) -> the components' centres (\\*batch, K, 2)."""
    modes: Callable[[Tensor], Tensor]
    """angle (\\*batch,) -> the centres (\\*batch, M, 2) of what a sample should cover."""
    mode_radius: float
    """A sample within this distance of a mode's centre belongs to the mode."""
    sigma: float | None = None
    """Standard deviation of a component; None: uniform on a square of side `2 / SQUARES`."""
    conditional: bool = False
    """Whether the law turns with the observation; if not, the angle is always 0."""

    def angles(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Draw n angles, uniform in [0, 2 pi) for a conditional law, else 0."""
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        return angle if self.conditional else torch.zeros_like(angle)

    def sample(self, angle: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n 2"]:
        """Draw one action per angle, exactly, clipped to [-1, 1]."""
        centres = self.centres(angle)
        n, count = centres.shape[:2]
        chosen = centres[torch.arange(n), torch.randint(count, (n,), generator=generator)]
        if self.sigma is None:
            return chosen + (torch.rand(n, 2, generator=generator) - 0.5) * (2 / SQUARES)
        return (chosen + self.sigma * torch.randn(n, 2, generator=generator)).clamp(-1, 1)

    def transitions(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch of n one-step episodes without reward, for `genpolicy.Agent.update`."""
        angle = self.angles(n, generator)
        observation = observe(angle)
        return {
            "observations": observation,
            "actions": self.sample(angle, generator),
            "next_observations": observation,
            "rewards": torch.zeros(n),
            "masks": torch.zeros(n),
        }

    def log_prob(self, action: Float[Tensor, "n 2"], angle: float = 0.0) -> Float[Tensor, " n"]:
        """Return the log-density at actions, before clipping, in nats; -inf outside of a uniform law's squares."""
        centres = self.centres(torch.tensor(angle))
        offset = action[:, None] - centres
        if self.sigma is None:
            inside = (offset.abs() <= 1 / SQUARES).all(dim=-1).any(dim=-1)
            return torch.where(inside, -math.log(len(centres) * (2 / SQUARES) ** 2), -math.inf)
        exponent = -offset.square().sum(dim=-1) / (2 * self.sigma**2)
        return torch.logsumexp(exponent, dim=-1) - math.log(2 * math.pi * self.sigma**2 * len(centres))


def observe(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 2"]:
    """Return the observation (cos angle, sin angle)."""
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def get_density(name: str) -> Density:
    """Return a density by name.

    Raises:
        ConfigError: for an unknown name, with the nearest ones.
    """
    if name not in DENSITIES:
        raise ConfigError(f"Unknown density '{name}'.{suggest(name, DENSITIES)} Known: {', '.join(DENSITIES)}.")
    return DENSITIES[name]


def get_value(name: str) -> Callable[[Tensor], Tensor]:
    """Return a known Q by name.

    Raises:
        ConfigError: for an unknown name, with the nearest ones.
    """
    if name not in VALUES:
        raise ConfigError(f"Unknown Q '{name}'.{suggest(name, VALUES)} Known: {', '.join(VALUES)}.")
    return VALUES[name]


def _fixed(points: Tensor) -> Callable[[Tensor], Tensor]:
    """The same points at every angle."""
    return lambda angle: points.expand(*angle.shape, *points.shape)


def _circle(count: int, radius: float, offset: Tensor | float = 0.0) -> Tensor:
    """Points (\\*batch, count, 2) on a circle, the first at the angle `offset` (\\*batch,)."""
    turn = torch.as_tensor(offset)[..., None] + 2 * math.pi * torch.arange(count) / count
    return radius * observe(turn)


def _grid_centres() -> Tensor:
    line = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    return torch.cartesian_prod(line, line)


def _moons(count: int) -> Tensor:
    """Points (2 count, 2), evenly spaced on two interleaved half circles of radius 0.5."""
    turn = math.pi * (torch.arange(count) + 0.5) / count
    upper = 0.5 * observe(turn) + torch.tensor([-0.25, -0.1])
    lower = 0.5 * observe(turn + math.pi) + torch.tensor([0.25, 0.1])
    return torch.cat([upper, lower])


def _squares() -> Tensor:
    """Centres (8, 2) of the dark squares of a 4 x 4 board."""
    centres = _grid_centres()
    index = torch.cartesian_prod(torch.arange(SQUARES), torch.arange(SQUARES)).sum(dim=-1)
    return centres[index % 2 == 0]


def _turning(angle: Tensor) -> Tensor:
    """Four modes that turn by a quarter while the angle goes once round, each to the place of the next."""
    return _circle(4, 0.7, angle / 4)


DENSITIES = {
    density.name: density
    for density in (
        Density(
            "grid",
            "4 x 4 Gaussians with centres at +-0.25 and +-0.75 and sigma 0.1",
            _fixed(_grid_centres()),
            _fixed(_grid_centres()),
            mode_radius=2 * GRID_SIGMA,
            sigma=GRID_SIGMA,
        ),
        Density(
            "moons",
            "two interleaved half circles of radius 0.5, blurred by sigma 0.06; five modes on each",
            _fixed(_moons(64)),
            _fixed(_moons(5)),
            mode_radius=0.12,
            sigma=0.06,
        ),
        Density(
            "ring",
            "8 Gaussians on a circle of radius 0.7, sigma 0.07",
            _fixed(_circle(8, 0.7)),
            _fixed(_circle(8, 0.7)),
            mode_radius=2 * 0.07,
            sigma=0.07,
        ),
        Density(
            "checkerboard",
            "uniform on 8 of the 16 squares of the action box",
            _fixed(_squares()),
            _fixed(_squares()),
            mode_radius=0.2,
        ),
        Density(
            "turning_ring",
            "4 Gaussians on a circle of radius 0.7, sigma 0.07, that turn with the observation",
            _turning,
            _turning,
            mode_radius=2 * 0.07,
            sigma=0.07,
            conditional=True,
        ),
    )
}
"""The known laws of actions, by name."""

PEAK_WIDTH = 0.35
"""Standard deviation of a peak of the known Q."""


def peaks(action: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Two of the grid's modes are good: Q is 1 at (0.75, 0.75), 0.9 at (-0.75, -0.25) and falls off to 0.5."""
    centres = action.new_tensor([[0.75, 0.75], [-0.75, -0.25]])
    heights = action.new_tensor([0.5, 0.4])
    squared = (action[..., None, :] - centres).square().sum(dim=-1)
    return 0.5 + (heights * torch.exp(-squared / (2 * PEAK_WIDTH**2))).sum(dim=-1)


def slope(action: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Q = (2 + a_1 + a_2) / 4 grows without end; the best action of the box is its corner (1, 1), beyond the data."""
    return 0.5 + action.sum(dim=-1) / 4


VALUES: dict[str, Callable[[Tensor], Tensor]] = {"peaks": peaks, "slope": slope}
"""The known Q functions, by name."""
