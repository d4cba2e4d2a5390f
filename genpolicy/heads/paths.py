"""The interpolation between actions and noise: one clock for every head.

    x_t = (1 - t) action + t noise,   velocity = d x_t / dt = noise - action

t is the share of noise: t = 0 is the action, t = 1 is noise, sampling goes from 1 to 0. This module alone writes the
interpolation; heads call it.
"""

from jaxtyping import Float
from torch import Tensor

T_DATA = 0.0
"""The time of the action."""
T_NOISE = 1.0
"""The time of noise."""


def interpolate(
    action: Float[Tensor, "*batch A"], noise: Float[Tensor, "*batch A"], t: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch A"]:
    """Return x_t = (1 - t) action + t noise."""
    return (1 - t) * action + t * noise


def velocity(action: Float[Tensor, "*batch A"], noise: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
    """Return d x_t / dt = noise - action, the same at every t."""
    return noise - action
