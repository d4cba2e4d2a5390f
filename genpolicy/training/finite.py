"""Checks that stop a run whose numbers became NaN or infinite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genpolicy.errors import NonFiniteError

ADVICE = (
    "Check the data with `genpolicy data info`, then try a lower learning rate, gradient clipping or a "
    "smaller behaviour-cloning weight in a new run. Nothing was saved after it; earlier checkpoints are fine."
)


def fetch(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Return 0-d tensors as numbers, with one transfer from their device."""
    if not metrics:
        return {}
    values = torch.stack([value.detach().reshape(()).float() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))


def check_losses(step: int, metrics: Mapping[str, Tensor]) -> None:
    """Check the metrics whose name ends with "loss" (all, if none does).

    Raises:
        NonFiniteError: naming the step, the losses and what to try.
    """
    losses = {name: value for name, value in metrics.items() if name.endswith("loss")} or metrics
    # On the CPU this runs in every update, and item() is five times as fast as stacking.
    if on_cpu(losses) and all(math.isfinite(value.item()) for value in losses.values()):
        return
    bad = {name: value for name, value in fetch(losses).items() if not math.isfinite(value)}
    if bad:
        listed = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteError(f"Training stopped at step {step}: {listed}. {ADVICE}")


def check_weights(step: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that no tensor of a state holds NaN; infinities are allowed, since masks may hold them.

    Raises:
        NonFiniteError: naming the step, the tensors and what to try.
    """
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    flags = fetch({name: tensor.isnan().any() for name, tensor in floating.items()})
    bad = [name for name, flag in flags.items() if flag]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteError(f"Training stopped at step {step}: NaN in {', '.join(bad[:3])}{more}. {ADVICE}")


def on_cpu(metrics: Mapping[str, Tensor]) -> bool:
    """Whether reading the metrics costs no wait for another device."""
    return all(value.device.type == "cpu" for value in metrics.values())
