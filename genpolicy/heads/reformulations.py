"""Reformulations of MeanFlow as values: what the network predicts, and what follows for target and action.

Write v = noise - action for the velocity and u(x_t, t) for the average velocity over [0, t]. The MeanFlow identity
is u = v - t du/dt, the derivative being total, along the path (arXiv:2505.13447, equation 6, with r = 0). Let the
network predict g = phi(x_t, noise, t) - u for a chosen phi with total derivative phi' along the path. Then

    regression target   g* = phi + t phi' - v - t dg/dt
    one-step action     noise - u(noise, 1) = noise - phi(noise, noise, 1) + g(noise, 1)

A reformulation is therefore a phi and its derivative; the head is written once (arXiv:2511.13035, section 4).
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from genpolicy.registry import Registry

REFORMULATIONS: Registry["Reformulation"] = Registry("reformulation", "reformulations")


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
    ) -> Float[Tensor, "*batch A"]:
        """Return the regression target g* = phi + t phi' - v - t dg/dt."""
        phi = self.phi(x_t, noise, t)
        return phi + t * self.phi_dot(x_t, noise, t, velocity) - velocity - t * dg_dt

    def avg_velocity(self, g: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return u = phi - g, the average velocity that the network's output g stands for."""
        return self.phi(x_t, noise, t) - g

    def action(self, g: Float[Tensor, "*batch A"], noise: Float[Tensor, "*batch A"], t: Tensor) -> Tensor:
        """Return noise - u(noise, 1) for the output g at x_t = noise and t = 1."""
        return noise - self.avg_velocity(g, noise, noise, t)


@REFORMULATIONS.register("residual")
class Residual(Reformulation):
    """phi = x_t: the network predicts g = x_t - u, the residual form that the paper keeps.

    Target g* = x_t + (t - 1) v - t dg/dt; action = g(noise, 1). The network's output *is* the action, so bounds on
    the action act on it directly, and an output of zero gives the action 0, the middle of the action range.
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
