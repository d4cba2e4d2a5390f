"""Noise schedules of diffusion: how much of the action is left after k of K steps, and the steps back.

    x_t = signal action + spread noise,   signal = sqrt(alpha_bar_k),   spread = sqrt(1 - alpha_bar_k),   t = k / K

The path preserves the variance of actions with variance 1: signal^2 + spread^2 = 1. It is not the straight path of
`genpolicy.heads.paths`; what the two share is the clock: t = 0 is the action, t = 1 is (almost) noise.
"""

import math
from itertools import accumulate, pairwise
from operator import mul
from typing import Literal, NamedTuple, TypeVar

from torch import Tensor

Schedule = Literal["vp", "linear", "cosine"]
"""How the noise grows over the steps of a diffusion."""
Prediction = Literal["noise", "action", "v"]
"""What the network of a diffusion is asked for."""
Scale = TypeVar("Scale", float, Tensor)

VP_BETA_MIN, VP_BETA_MAX = 0.1, 10.0
LINEAR_BETA_MIN, LINEAR_BETA_MAX, LINEAR_STEPS = 1e-4, 2e-2, 1000
COSINE_OFFSET, COSINE_BETA_MAX = 0.008, 0.999
LINEAR_MIN_STEPS = 21
"""Fewest steps of the linear schedule: with less the last beta would be 1 or more."""


class ReverseStep(NamedTuple):
    """One step of a chain back to the action.

        x_next = next_signal action + next_spread noise + sigma z

    with the action and the noise that x_t is predicted to be made of, and z ~ N(0, I).
    """

    t: float
    signal: float
    spread: float
    next_signal: float
    next_spread: float
    sigma: float


def betas(schedule: Schedule, steps: int) -> list[float]:
    """Return beta_1 .. beta_K, the share of variance that each step replaces by noise.

    vp      beta_k = 1 - exp(-0.1 / K - 0.5 (10 - 0.1) (2 k - 1) / K^2), so that alpha_bar does not depend on K:
            alpha_bar_k = exp(-0.1 t - 0.5 (10 - 0.1) t^2). The variance-preserving diffusion of arXiv:2011.13456 as
            Diffusion-QL (arXiv:2208.06193) cuts it into steps.
    linear  beta_k from 1e-4 to 0.02 (arXiv:2006.11239), times 1000 / K, so that K steps destroy as much as its 1000.
    cosine  alpha_bar_k = f(k) / f(0), f(k) = cos^2((k / K + 0.008) / 1.008 pi / 2), beta at most 0.999
            (arXiv:2102.09672).

    Args:
        schedule: which of them.
        steps: K, at least `LINEAR_MIN_STEPS` for the linear one.
    """
    count = range(1, steps + 1)
    if schedule == "vp":
        slope = 0.5 * (VP_BETA_MAX - VP_BETA_MIN)
        return [-math.expm1(-VP_BETA_MIN / steps - slope * (2 * k - 1) / steps**2) for k in count]
    if schedule == "linear":
        increment = (LINEAR_BETA_MAX - LINEAR_BETA_MIN) / (steps - 1)
        return [LINEAR_STEPS / steps * (LINEAR_BETA_MIN + (k - 1) * increment) for k in count]
    f = [math.cos((k / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2 for k in range(steps + 1)]
    return [min(1 - after / before, COSINE_BETA_MAX) for before, after in pairwise(f)]


def alpha_bars(schedule: Schedule, steps: int) -> list[float]:
    """Return alpha_bar_0 = 1, alpha_bar_1 .. alpha_bar_K, the products of 1 - beta: K + 1 numbers."""
    return list(accumulate((1 - beta for beta in betas(schedule, steps)), mul, initial=1.0))


def reverse_steps(alpha_bar: list[float], sampling_steps: int, *, ancestral: bool) -> list[ReverseStep]:
    """Return the steps of a chain from K to 0 over evenly spread indices, the first to be made first.

    From k to j the ancestral chain draws from the posterior of x_j given x_k and the action, whose variance is
    sigma^2 = (1 - alpha_bar_j) / (1 - alpha_bar_k) (1 - alpha_bar_k / alpha_bar_j); sigma is 0 without it. In both
    next_spread^2 = 1 - alpha_bar_j - sigma^2 (arXiv:2010.02502, eta = 1 and eta = 0).

    Args:
        alpha_bar: K + 1 numbers from `alpha_bars`.
        sampling_steps: number of steps, at most K.
        ancestral: whether the steps draw noise; the last one, to j = 0, never does.
    """
    last = len(alpha_bar) - 1
    indices = [last * i // sampling_steps for i in range(sampling_steps, -1, -1)]
    chain = []
    for k, j in pairwise(indices):
        here, after = alpha_bar[k], alpha_bar[j]
        variance = (1 - after) / (1 - here) * (1 - here / after) if ancestral else 0.0
        rest = max(1 - after - variance, 0.0)
        chain.append(
            ReverseStep(
                t=k / last,
                signal=math.sqrt(here),
                spread=math.sqrt(1 - here),
                next_signal=math.sqrt(after),
                next_spread=math.sqrt(rest),
                sigma=math.sqrt(variance),
            )
        )
    return chain


def diffuse(action: Tensor, noise: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Return x_t = signal action + spread noise."""
    return signal * action + spread * noise


def prediction_target(prediction: Prediction, action: Tensor, noise: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Return what the network is to predict: noise, action, or v = signal noise - spread action."""
    if prediction == "noise":
        return noise
    if prediction == "action":
        return action
    return signal * noise - spread * action


def predicted_action(prediction: Prediction, output: Tensor, x_t: Tensor, signal: Scale, spread: Scale) -> Tensor:
    """Return the action that the network's output at x_t stands for."""
    if prediction == "noise":
        return (x_t - spread * output) / signal
    if prediction == "action":
        return output
    return signal * x_t - spread * output
