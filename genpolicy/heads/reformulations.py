"""Reformulations of MeanFlow as values: what the network predicts, and what follows for target and action.

Write v = noise - action for the velocity and u(x_t, r, t) for the average velocity over [r, t]; a head with one time
has r = 0. The MeanFlow identity is u = v - (t - r) du/dt, the derivative being total, along the path with r fixed
(arXiv:2505.13447, equation 6). Let the network predict g = phi(x_t, noise, t) - u for a chosen phi with total
derivative phi' along the path. Then

    regression target   g* = phi + (t - r) phi' - v - (t - r) dg/dt
    jump from t to r    x_r = x_t - (t - r) (phi - g)
    one-step action     noise - u(noise, 0, 1) = noise - phi(noise, noise, 1) + g(noise, 0, 1)

A reformulation is therefore a phi and its derivative; the head is written once (arXiv:2511.13035, section 4).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.registry import Registry

REFORMULATIONS: Registry["Reformulation"] = Registry("reformulation", "reformulations")
"""What the network of MeanFlow can be asked for, by name."""


class Reformulation(ABC):
    """A phi with its total derivative; everything else follows.

    All tensors are (\\*batch, A) but t, which is (\\*batch, 1); phi and its derivative may broadcast.
    """

    @abstractmethod
    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return phi(x_t, noise, t)."""

    @abstractmethod
    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return d phi / dt along the path, where d x_t / dt = velocity and d noise / dt = 0."""

    def target(
        self,
        x_t: Float[Tensor, "*batch A"],
        noise: Float[Tensor, "*batch A"],
        t: Float[Tensor, "*batch 1"],
        velocity: Float[Tensor, "*batch A"],
        dg_dt: Float[Tensor, "*batch A"],
        *,
        r: Float[Tensor, "*batch 1"] | float = 0.0,
        direction: Float[Tensor, "*batch A"] | None = None,
    ) -> Float[Tensor, "*batch A"]:
        """Return the regression target g* = phi + (t - r) phi' - v - (t - r) dg/dt.

        Args:
            x_t: where the row stands on its path.
            noise: the path's end at t = 1.
            t: flow time, upper end of the interval.
            velocity: v, what the instantaneous velocity at x_t is taken to be.
            dg_dt: total derivative of the network's output.
            r: lower end of the interval.
            direction: d x_t / dt for both derivatives, dg/dt and phi'; the velocity if not given.
        """
        span, along = t - r, velocity if direction is None else direction
        phi = self.phi(x_t, noise, t)
        return phi + span * self.phi_dot(x_t, noise, t, along) - velocity - span * dg_dt

    def avg_velocity(self, g: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return u = phi - g, the average velocity that the network's output g stands for."""
        return self.phi(x_t, noise, t) - g

    def output(self, u: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return g = phi - u, the network's output that stands for the average velocity u."""
        return self.phi(x_t, noise, t) - u

    def action(self, g: Float[Tensor, "*batch A"], noise: Float[Tensor, "*batch A"], t: Tensor) -> Tensor:
        """Return noise - u(noise, 0, 1) for the output g at x_t = noise, r = 0 and t = 1."""
        return noise - self.avg_velocity(g, noise, noise, t)


@REFORMULATIONS.register("residual")
class Residual(Reformulation):
    """phi = x_t: the network predicts g = x_t - u, the residual form that the paper keeps.

    Target g* = x_t + (t - 1) v - t dg/dt, with two times x_t + (t - r - 1) v - (t - r) dg/dt; action = g(noise, 1).
    The network's output *is* the action, so bounds on the action act on it directly, and an output of zero gives the
    action 0, the middle of the action range.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t."""
        return x_t

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity."""
        return velocity

    def action(self, g: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return g: the noise cancels exactly, so it is not added and subtracted in floating point."""
        return g


@REFORMULATIONS.register("average_velocity")
class AverageVelocity(Reformulation):
    """g = u: plain MeanFlow, the network predicts the average velocity itself.

    Target g* = v - t dg/dt, with two times v - (t - r) dg/dt; action = noise - g(noise, 1). An output of zero gives the
    action `noise`, which leaves the action range for about a third of Gaussian coordinates: early in training actions
    are clipped, and the policy that acts is not the one that the Q-gradient improves. This is why the paper drops it.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return 0; the sign of g is turned in the other methods."""
        return torch.zeros_like(x_t)

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(x_t)

    def target(
        self,
        x_t: Tensor,
        noise: Tensor,
        t: Tensor,
        velocity: Tensor,
        dg_dt: Tensor,
        *,
        r: Tensor | float = 0.0,
        direction: Tensor | None = None,
    ) -> Tensor:
        """Return v - (t - r) dg/dt."""
        return velocity - (t - r) * dg_dt

    def avg_velocity(self, g: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return g."""
        return g

    def output(self, u: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return u."""
        return u


@REFORMULATIONS.register("time")
class Time(Reformulation):
    """phi = t: the network predicts g = t - u.

    Target g* = 2 t - v - t dg/dt; action = noise - 1 + g(noise, 1). An output of zero gives the action noise - 1: as
    far out of the range as plain MeanFlow, and off its centre.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return t in every coordinate."""
        return t.expand_as(x_t)

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(x_t)


@REFORMULATIONS.register("noise")
class Noise(Reformulation):
    """phi = noise: the network predicts g = noise - u.

    Target g* = noise - v - t dg/dt; action = g(noise, 1), so an output of zero gives the action 0. But away from t = 1
    the network sees x_t and not the noise: for t near 0 the target asks for noise - v = action and a quantity that x_t
    does not determine, and the regression averages over it. For the same reason it should keep to one sampling step:
    away from t = 1 the average velocity recovered from g is off by the noise's deviation from its mean given x_t.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the noise."""
        return noise

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return 0: the noise is the same along a path."""
        return torch.zeros_like(noise)

    def action(self, g: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return g."""
        return g


@REFORMULATIONS.register("scaled_noise")
class ScaledNoise(Reformulation):
    """phi = t noise: the network predicts g = t noise - u.

    Target g* = 2 t noise - v - t dg/dt; action = g(noise, 1), so an output of zero gives the action 0. The factor t
    removes the undetermined part near t = 0, not in between; keep to one sampling step, as with `noise`.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return t noise."""
        return t * noise

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return the noise."""
        return noise

    def action(self, g: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return g."""
        return g


@REFORMULATIONS.register("double_residual")
class DoubleResidual(Reformulation):
    """phi = 2 x_t: the network predicts g = 2 x_t - u.

    Target g* = 2 x_t + 2 t v - v - t dg/dt; action = g(noise, 1) - noise. An output of zero gives the action -noise,
    out of the range as often as plain MeanFlow.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return 2 x_t."""
        return 2 * x_t

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return twice the velocity."""
        return 2 * velocity


@REFORMULATIONS.register("constant")
class Constant(Reformulation):
    """phi = 2: the network predicts g = 2 - u.

    Target g* = 2 - v - t dg/dt; action = noise - 2 + g(noise, 1). An output of zero gives the action noise - 2, almost
    always out of the range.

    Reference: where HiccupRL/MeanFlowQL encodes images, it writes the action as noise - (g - 2); by the identity it is
    noise + (g - 2), as here.
    """

    def phi(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return 2 in every coordinate."""
        return torch.full_like(x_t, 2.0)

    def phi_dot(self, x_t: Tensor, noise: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(x_t)
