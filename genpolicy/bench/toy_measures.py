"""Measures of samples against a known law: exact transport distance, modes, bounds."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.data.toy import Density
from genpolicy.errors import ConfigError

COVERED_SHARE = 0.25
"""A mode is covered if it gets at least this part of the samples that the true law gives it."""


def import_transport() -> Any:
    """Import POT, the package of exact optimal transport.

    Raises:
        ConfigError: if it is not installed, with the command that installs it.
    """
    try:
        import ot
    except ImportError as error:
        raise ConfigError(
            "The toy study measures distances by exact optimal transport with the package POT, which is not "
            "installed. Install it: pip install 'genpolicy[toy]'."
        ) from error
    return ot


def wasserstein(first: Float[Tensor, "*groups n 2"], second: Float[Tensor, "*groups n 2"]) -> float:
    """Return the 2-Wasserstein distance of two samples of equal size, by exact optimal transport.

    Args:
        first: (n, 2), or (G, n, 2) for a conditional law: the root of the mean squared distance over G groups.
        second: the same shape.

    Returns:
        The distance, in units of the action; inf if a sample is not finite.
    """
    ot = import_transport()
    if not (first.isfinite().all() and second.isfinite().all()):
        return math.inf
    pairs = zip(first.reshape(-1, *first.shape[-2:]), second.reshape(-1, *second.shape[-2:]), strict=True)
    squared = [ot.emd2([], [], ot.dist(a.double().numpy(), b.double().numpy()), numItermax=10**7) for a, b in pairs]
    return math.sqrt(sum(squared) / len(squared))


def on_modes(action: Float[Tensor, "n 2"], angle: Float[Tensor, " n"], density: Density) -> Float[Tensor, "n M"]:
    """Return 1 where an action lies within the mode's radius, else 0."""
    distance = torch.linalg.vector_norm(action[:, None] - density.modes(angle), dim=-1)
    return (distance <= density.mode_radius).to(action.dtype)


def mode_measures(
    action: Float[Tensor, "n 2"], angle: Float[Tensor, " n"], density: Density, reference: Float[Tensor, "n 2"]
) -> dict[str, float]:
    """Return how many modes are covered, and how much of the true law's weight on the modes is reached.

    Args:
        action: samples.
        angle: the angle that each was generated at.
        density: the true law.
        reference: samples of the true law at the same angles.

    Returns:
        "modes": share of modes that get at least a quarter of the reference's samples within their radius;
        "sharpness": samples within the radius of any mode, divided by the reference's.
    """
    counts, expected = (on_modes(points, angle, density).sum(dim=0) for points in (action, reference))
    return {
        "modes": float((counts >= COVERED_SHARE * expected).double().mean()),
        "sharpness": float(counts.sum() / expected.sum()),
    }


def bound_measures(action: Float[Tensor, "n 2"]) -> dict[str, float]:
    """Return "outside", the share of samples with a coordinate beyond [-1, 1], and "largest", the largest |coordinate|.

    What is not finite counts as outside.
    """
    largest = action.abs().amax(dim=-1)
    return {"outside": float((~(largest <= 1.0)).double().mean()), "largest": float(largest.max())}
