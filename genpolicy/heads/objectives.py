"""Objectives as values: what the network's output for an interval of flow time is regressed on.

A reformulation says what the output g means, an objective where the average velocity that it should mean comes from.
Write u for the average velocity that g stands for, v = noise - action for the velocity, [r, t] for the interval, x_t
for the point of the path at t. All targets are without gradient.

    meanflow   u* = v - (t - r) du/dt, du/dt along (v, 0, 1)
    improved   u* = v - (t - r) du/dt, du/dt along (u(x_t, t, t), 0, 1)
    split      u* = (1 - lambda) u(x_s, r, s) + lambda u(x_t, s, t)
    alpha      u* = v + (1 - alpha) / alpha (u(x_s, r, s) - u(x_t, r, t))

Where r = t all of them are flow matching, u* = v.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads.reformulations import Reformulation
from genpolicy.networks.layers import jvp
from genpolicy.registry import Registry

OBJECTIVES: Registry["Objective"] = Registry("objective", "objectives")
"""Ways to build the regression target of MeanFlow, by name."""


class Interval(NamedTuple):
    """Where each row stands on its path, and the interval [r, t] whose average velocity it learns.

    `x_t`, `noise` and `velocity` = noise - action are (B, A), `r` and `t` are (B, 1).
    """

    x_t: Tensor
    noise: Tensor
    velocity: Tensor
    r: Tensor
    t: Tensor


class Regression(NamedTuple):
    """A prediction and what it is regressed on, each (B, A)."""

    g: Tensor
    """The network's output at (x_t, r, t), with gradient."""
    target: Tensor
    """g*, without gradient."""
    dg_dt: Tensor | None = None
    """The total derivative of g that the target is made of; None for an objective that takes none."""


class Field:
    """A network with a batch's features bound: what an objective may evaluate.

    Args:
        output: g as a function of (x_t, r, t).
        reformulation: what g means.
    """

    def __init__(self, output: Callable[[Tensor, Tensor, Tensor], Tensor], reformulation: Reformulation):
        self.output = output
        self.reformulation = reformulation

    def avg_velocity(self, x_t: Tensor, noise: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Return u(x_t, r, t)."""
        return self.reformulation.avg_velocity(self.output(x_t, r, t), x_t, noise, t)

    def output_and_derivative(self, at: Interval, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and its derivative along (direction, 0, 1), the latter without gradient."""
        g, dg_dt = jvp(lambda x_t, t: self.output(x_t, at.r, t), (at.x_t, at.t), (direction, torch.ones_like(at.t)))
        return g, dg_dt.detach()  # Stop-gradient: the tangent only serves the target.


class Objective(ABC):
    """How the regression target of the average velocity is built."""

    needs_two_times: bool = True
    """Whether the network must know the interval's lower end."""
    needs_instants: bool = False
    """Whether the data enters in rows with r = t only, so that there must be some."""
    follows_progress: bool = False
    """Whether draws depend on how far the curriculum is."""
    takes_derivative: bool = False
    """Whether the target is made of dg/dt, whose size the head then logs."""

    def draw(self, n: int, generator: torch.Generator, progress: float) -> Tensor | tuple[()]:
        """Return what else `regression` needs for n rows, as (n, 1), or ().

        Args:
            n: rows.
            generator: source of random numbers.
            progress: how far the curriculum is, in [0, 1].
        """
        return ()

    @abstractmethod
    def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
        """Evaluate the network and build its target.

        Args:
            field: the network.
            at: the rows.
            draw: what `draw` returned.
        """


@OBJECTIVES.register("meanflow")
class MeanFlow(Objective):
    """The MeanFlow identity: one Jacobian-vector product in the direction of the row's own path.

        u* = v - (t - r) du/dt,   du/dt along (v, 0, 1)

    (arXiv:2505.13447, equation 6 and Algorithm 1.) The direction is noise - action of the row, not its mean given x_t;
    the target is linear in it, so that its mean is right.

    Cost: one forward pass with its tangent, one backward pass.
    """

    needs_two_times = False
    takes_derivative = True

    def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
        """See the class."""
        return _identity(field, at, at.velocity)


@OBJECTIVES.register("improved")
class Improved(Objective):
    """Improved MeanFlow: the identity in the direction of the velocity that the network itself believes in.

        V = u + (t - r) sg(du/dt),   du/dt along (u(x_t, t, t), 0, 1);   error = |V - v|^2

    ("Improved Mean Flows", arXiv:2512.02012: a loss on the velocity, parametrised by the average velocity.) As du/dt is
    without gradient, the error is that of regressing u on v - (t - r) du/dt, which is how it is written here. Against
    `meanflow` the noise of v - E[v | x_t] leaves the derivative. The instantaneous velocity must be learned too:
    rows with r = t do that (``instant_share``); the paper's larger networks add an output of its own for it.

    Cost: that of `meanflow` and one forward pass without gradient.
    """

    takes_derivative = True

    def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
        """See the class."""
        with torch.no_grad():  # Stop-gradient: the direction only serves the target.
            direction = field.avg_velocity(at.x_t, at.noise, at.t, at.t)
        return _identity(field, at, direction)


@OBJECTIVES.register("split")
class Split(Objective):
    """SplitMeanFlow: two jumps over the parts of an interval end where one jump over the whole ends.

        s = (1 - lambda) t + lambda r,   lambda uniform on [0, 1)
        u2 = u(x_t, s, t),   x_s = x_t - (t - s) u2,   u1 = u(x_s, r, s)
        u* = (1 - lambda) u1 + lambda u2

    (arXiv:2507.16884, interval splitting consistency and Algorithm 1.) No derivative is taken. The identity holds for
    u = 0 as well: the rows with r = t, where u* = v, hold it to the data, and `instant_share` must not be 0.

    Deviation: the paper distils a flow-matching teacher, which takes the place of v; here both are learned at once.

    Cost: three forward passes, one of them with gradient, one backward pass.
    """

    needs_instants = True

    def draw(self, n: int, generator: torch.Generator, progress: float) -> Tensor:
        """Draw lambda."""
        return torch.rand(n, 1, generator=generator, device=generator.device)

    def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
        """See the class."""
        share = _given(draw, "split", "lambda")
        g = field.output(at.x_t, at.r, at.t)
        with torch.no_grad():  # Stop-gradient: the two short jumps are the target of the long one.
            s = torch.lerp(at.t, at.r, share)
            u_late = field.avg_velocity(at.x_t, at.noise, s, at.t)
            x_s = at.x_t - (at.t - s) * u_late
            u_early = field.avg_velocity(x_s, at.noise, at.r, s)
            u = torch.where(at.r == at.t, at.velocity, torch.lerp(u_early, u_late, share))
            return Regression(g, field.reformulation.output(u, at.x_t, at.noise, at.t))


@OBJECTIVES.register("alpha")
class Alpha(Objective):
    """alpha-Flow: a curriculum from trajectory flow matching (alpha = 1) to MeanFlow (alpha towards 0).

        s = alpha r + (1 - alpha) t,   x_s = x_t - (t - s) v
        loss = 1 / alpha |u - sg(alpha v + (1 - alpha) u(x_s, r, s))|^2

    (arXiv:2510.20771; here v, the velocity from x_t to x_s, is noise - action.) As alpha goes to 0 the gradient becomes
    that of `meanflow`, (1 - alpha) / alpha (u - u(x_s, r, s)) being a difference quotient of (t - r) du/dt.

    It is written as the regression of u on u* = sg(v + (1 - alpha) / alpha (u(x_s, r, s) - u)), which has the same
    gradient: (u - u*) alpha is the difference above. Its value does not shrink with alpha, so that clip, adaptive
    weight and whoever watches the loss see numbers of one scale; with the weight 1 / error (gamma = 0, c = 0) it is
    the weight alpha / error of snap-research/alphaflow ``src/training/loss.py``.

    alpha follows the curriculum's progress p by the sigmoid of that code, 1 - sigmoid(25 (p - 1/2)), and is 1 above
    0.995. Deviation: below 0.005 that code changes to the Jacobian-vector product of MeanFlow; here alpha stays at
    0.005, whose targets differ by as little. A subclass may set other constants.

    Cost: two forward passes, one of them with gradient, one backward pass.
    """

    follows_progress = True

    steepness = 25.0
    smallest = 0.005

    def alpha(self, progress: float) -> float:
        """Return alpha at the curriculum's progress."""
        alpha = 1 / (1 + math.exp(self.steepness * (progress - 0.5)))
        return 1.0 if alpha > 1 - self.smallest else max(alpha, self.smallest)

    def draw(self, n: int, generator: torch.Generator, progress: float) -> Tensor:
        """Return alpha, the same in all rows; nothing is drawn."""
        return torch.full((n, 1), self.alpha(progress), device=generator.device)

    def regression(self, field: Field, at: Interval, draw: Tensor | tuple[()]) -> Regression:
        """See the class."""
        alpha = _given(draw, "alpha", "alpha")
        g = field.output(at.x_t, at.r, at.t)
        with torch.no_grad():  # Stop-gradient: both average velocities are data for the regression.
            s = torch.lerp(at.t, at.r, alpha)
            x_s = at.x_t - (at.t - s) * at.velocity
            u = field.reformulation.avg_velocity(g, at.x_t, at.noise, at.t)
            u_s = field.avg_velocity(x_s, at.noise, at.r, s)
            target = at.velocity + (1 - alpha) / alpha * (u_s - u)
            return Regression(g, field.reformulation.output(target, at.x_t, at.noise, at.t))


def _identity(field: Field, at: Interval, direction: Tensor) -> Regression:
    """The MeanFlow identity with du/dt along (direction, 0, 1)."""
    g, dg_dt = field.output_and_derivative(at, direction)
    target = field.reformulation.target(
        at.x_t, at.noise, at.t, at.velocity, dg_dt, r=at.r, direction=direction
    ).detach()  # Stop-gradient: the target is data for the regression.
    return Regression(g, target, dg_dt)


def _given(draw: Tensor | tuple[()], objective: str, name: str) -> Tensor:
    if not isinstance(draw, Tensor):
        raise ConfigError(f"The objective '{objective}' needs {name} for every row; pass objective=... of the draws.")
    return draw
