"""Exact flow of Gaussian data, to put in place of a network.

Actions N(m, s^2 I) and noise N(0, I) give x_t = (1 - t) a + t e ~ N((1 - t) m, sigma_t^2 I), sigma_t^2 =
(1 - t)^2 s^2 + t^2. Everything is linear in x_t:

    marginal velocity  E[e - a | x_t] = -m + (t - (1 - t) s^2) / sigma_t^2 (x_t - (1 - t) m)
    flow map to t = 0  a(x_t, t) = m + s / sigma_t (x_t - (1 - t) m)
    average velocity   u(x_t, t) = (x_t - a(x_t, t)) / t

and with two times, for r = t without a division by zero, as sigma_t^2 - sigma_r^2 = (t - r) (t + r - s^2 (2 - t - r)),

    flow map to r      x_r = (1 - r) m + sigma_r / sigma_t (x_t - (1 - t) m)
    average velocity   u(x_t, r, t) = -m + (t + r - s^2 (2 - t - r)) / (sigma_t (sigma_t + sigma_r)) (x_t - (1 - t) m)
"""

import torch
from torch import Tensor, nn

MEAN, STD = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.3


def variance(t: Tensor) -> Tensor:
    return (1 - t) ** 2 * STD**2 + t**2


def marginal_velocity(x_t: Tensor, t: Tensor) -> Tensor:
    return -MEAN + (t - (1 - t) * STD**2) / variance(t) * (x_t - (1 - t) * MEAN)


def flow_to_action(x_t: Tensor, t: Tensor) -> Tensor:
    return MEAN + STD / variance(t).sqrt() * (x_t - (1 - t) * MEAN)


def flow(x_t: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return (1 - r) * MEAN + (variance(r) / variance(t)).sqrt() * (x_t - (1 - t) * MEAN)


def avg_velocity(x_t: Tensor, t: Tensor) -> Tensor:
    return (x_t - flow_to_action(x_t, t)) / t


def interval_velocity(x_t: Tensor, r: Tensor, t: Tensor) -> Tensor:
    scale_t, scale_r = variance(t).sqrt(), variance(r).sqrt()
    slope = (t + r - STD**2 * (2 - t - r)) / (scale_t * (scale_t + scale_r))
    return -MEAN + slope * (x_t - (1 - t) * MEAN)


class Oracle(nn.Module):
    """A backbone whose output g stands for the exact average velocity.

    Args:
        output: g as a function of (u, x_t, t).
    """

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, features: Tensor, x_t: Tensor, *times: Tensor) -> Tensor:
        u = avg_velocity(x_t, *times) if len(times) == 1 else interval_velocity(x_t, *times)
        return self.output(u, x_t, times[-1])


def pair_moving_with_the_flow(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Action and noise whose straight path passes x_t at t with the *marginal* velocity there."""
    velocity = marginal_velocity(x_t, t)
    return x_t - t * velocity, x_t + (1 - t) * velocity


def pairs_through(x_t: Tensor, t: Tensor, standard_normal: Tensor) -> tuple[Tensor, Tensor]:
    """Action and noise from their law given x_t, made of standard normal numbers.

    Given x_t, a ~ N(m + (1 - t) s^2 / sigma_t^2 (x_t - (1 - t) m), s^2 t^2 / sigma_t^2 I), and e follows from a.
    """
    mean = MEAN + (1 - t) * STD**2 / variance(t) * (x_t - (1 - t) * MEAN)
    action = mean + STD * t / variance(t).sqrt() * standard_normal
    return action, (x_t - (1 - t) * action) / t
