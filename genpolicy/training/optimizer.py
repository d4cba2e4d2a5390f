"""Adam with gradient clipping and a schedule, as tensor arithmetic on explicit state.

`torch.optim` keeps its step on the host and breaks the graph of a compiled update; this one is a pure sequence of
tensor operations, so that the whole update compiles as one region and a checkpoint holds all of it.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genpolicy.options import Options, option

METRIC_FORMULAS = {
    "grad_norm": "norm of the loss's gradient with respect to all parameters of the part, before clipping",
    "learning_rate": "rate of this update, by the schedule",
}
"""What the metrics of an update are, by name without the part's prefix."""


@dataclass(frozen=True)
class OptimizerConfig(Options):
    """Hyperparameters of one optimiser."""

    learning_rate: float = option(3e-4, "base learning rate", above=0)
    schedule: Literal["constant", "cosine"] = option("constant", "constant, or linear warm-up and cosine decay")
    warmup_fraction: float = option(0.05, "cosine: share of training spent warming up", minimum=0, maximum=1)
    min_ratio: float = option(0.1, "cosine: final learning rate as a share of the base", minimum=0, maximum=1)
    max_grad_norm: float | None = option(None, "gradients are scaled down to this global norm; null: never", above=0)
    beta1: float = option(0.9, "decay of the first moment", minimum=0, below=1)
    beta2: float = option(0.999, "decay of the second moment", minimum=0, below=1)
    eps: float = option(1e-8, "added to the root of the second moment", above=0)


def learning_rate(config: OptimizerConfig, count: Int[Tensor, ""], total_steps: int) -> Float[Tensor, ""]:
    """Return the learning rate of the update that follows `count` earlier ones.

    With W = int(warmup_fraction * total) and lo = min_ratio * base: base k / W for k <= W (if W > 0), then
    lo + (base - lo) / 2 (1 + cos(pi (k - W) / (total - W))), and lo after `total`. The first update under a warm-up
    has rate 0, as in HiccupRL/MeanFlowQL.
    """
    base = config.learning_rate
    if config.schedule == "constant":
        return torch.full((), base, device=count.device)
    warmup = int(config.warmup_fraction * total_steps)
    low = config.min_ratio * base
    progress = ((count - warmup) / max(total_steps - warmup, 1)).clamp(0.0, 1.0)
    decayed = low + (base - low) * 0.5 * (1 + torch.cos(math.pi * progress))
    return torch.where(count <= warmup, base * count / warmup, decayed) if warmup else decayed


class Adam:
    """Adam (arXiv:1412.6980) with bias correction; moments and count are plain tensors.

    Args:
        module: its parameters that require gradients are optimised, in place.
        config: hyperparameters.
        total_steps: planned number of updates, the horizon of the schedule.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, *, total_steps: int):
        self.config = config
        self.total_steps = total_steps
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.count = torch.zeros((), dtype=torch.int64, device=self.parameters[0].device)
        self.first_moments = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second_moments = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> dict[str, Tensor]:
        """Update the parameters in place.

        Args:
            gradients: one for each of `parameters`.

        Returns:
            "grad_norm" (before clipping) and "learning_rate".
        """
        config = self.config
        gradients = list(gradients)
        norm = self._norm(gradients)
        if config.max_grad_norm is not None:
            gradients = self._scaled(gradients, (config.max_grad_norm / norm).clamp(max=1.0))
        rate = learning_rate(config, self.count, self.total_steps)
        torch._foreach_lerp_(self.first_moments, gradients, 1 - config.beta1)
        torch._foreach_mul_(self.second_moments, config.beta2)
        torch._foreach_addcmul_(self.second_moments, gradients, gradients, 1 - config.beta2)
        self.count.add_(1)
        done = self.count.to(norm.dtype)
        first_correction = -torch.expm1(done * math.log(config.beta1)) if config.beta1 else torch.ones_like(done)
        second_correction = -torch.expm1(done * math.log(config.beta2)) if config.beta2 else torch.ones_like(done)
        # Stacked, or compiled code for a CPU would compute both anew for every eight elements of a parameter.
        step_size, root = torch.stack((rate / first_correction, second_correction.sqrt())).unbind()
        denominators = torch._foreach_sqrt(self.second_moments)
        torch._foreach_div_(denominators, root)
        torch._foreach_add_(denominators, config.eps)
        changes = torch._foreach_div(self.first_moments, denominators)
        torch._foreach_mul_(changes, step_size)
        torch._foreach_sub_(self.parameters, changes)
        return {"grad_norm": norm, "learning_rate": rate}

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """The global norm."""
        if torch.compiler.is_compiling() and self.count.device.type == "cpu":  # where _foreach_norm is a call for each
            return functools.reduce(torch.add, [one.square().sum() for one in gradients]).sqrt()
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def _scaled(self, gradients: list[Tensor], factor: Tensor) -> list[Tensor]:
        return list(torch._foreach_mul(gradients, factor))

    def state(self) -> dict[str, Tensor]:
        """Count and moments by parameter name, not copied."""
        return {"count": self.count} | {
            f"{kind}.{name}": tensor
            for kind, tensors in (("first", self.first_moments), ("second", self.second_moments))
            for name, tensor in zip(self.names, tensors, strict=True)
        }


class StackedAdam(Adam):
    """Adam for n modules at once: every parameter is a stack of theirs, and each has a norm of its own."""

    def _norm(self, gradients: list[Tensor]) -> Float[Tensor, " n"]:
        norms = [torch.linalg.vector_norm(one.reshape(len(one), -1), dim=1) for one in gradients]
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def _scaled(self, gradients: list[Tensor], factor: Float[Tensor, " n"]) -> list[Tensor]:
        return [one * factor.reshape(-1, *[1] * (one.ndim - 1)) for one in gradients]
