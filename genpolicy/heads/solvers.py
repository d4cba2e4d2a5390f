"""Solvers: carry noise along a velocity field from t = 1 to t = 0 in steps of equal length.

With h = 1 / steps and t = 1, 1 - h, ..., h, one step x_t -> x_(t - h) is

    euler     x_t - h v(x_t, t)                                       (order 1)
    midpoint  x_t - h v(x_t - h/2 v(x_t, t), t - h/2)                 (order 2)
    heun      x_t - h/2 (v(x_t, t) + v(x_t - h v(x_t, t), t - h))     (order 2)

Euler never evaluates the field at t = 0, heun does in its last step.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads import paths

Solver = Literal["euler", "midpoint", "heun"]
"""How the flow is integrated."""
Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x_t, t) of x_t (\\*batch, A) and a time that all rows share, (1, ..., 1) with as many axes."""

EVALUATIONS: dict[Solver, int] = {"euler": 1, "midpoint": 2, "heun": 2}
"""Evaluations of the velocity in one step."""


def integrate(
    velocity: Velocity,
    noise: Float[Tensor, "*batch A"],
    *,
    steps: int,
    solver: Solver = "euler",
    gradient_steps: int | None = None,
) -> Float[Tensor, "*batch A"]:
    """Solve dx/dt = v(x, t) from x = noise at t = 1 to t = 0.

    Args:
        velocity: the field, d x_t / dt.
        noise: (\\*batch, A), where the path starts.
        steps: number of steps of equal length, at least 1.
        solver: the rule of one step; its network evaluations are `EVALUATIONS[solver]`.
        gradient_steps: gradients flow through so many last steps only and the earlier ones are constants; None: all.
    """
    constant = 0 if gradient_steps is None else max(steps - gradient_steps, 0)
    x = noise
    with torch.no_grad():  # Truncated backpropagation: the first steps are constants.
        for i in range(constant):
            x = _step(velocity, x, i, steps, solver)
    for i in range(constant, steps):
        x = _step(velocity, x, i, steps, solver)
    return x


def _step(velocity: Velocity, x: Tensor, i: int, steps: int, solver: Solver) -> Tensor:
    def at(number: float) -> Tensor:
        # A time of one element is shared by all rows: embedded once.
        return x.new_full((1,) * x.ndim, paths.T_NOISE - number / steps)

    h = (paths.T_DATA - paths.T_NOISE) / steps  # negative: from noise to the action
    slope = velocity(x, at(i))
    if solver == "midpoint":
        slope = velocity(x + h / 2 * slope, at(i + 0.5))
    elif solver == "heun":
        slope = (slope + velocity(x + h * slope, at(i + 1))) / 2
    return x + h * slope
