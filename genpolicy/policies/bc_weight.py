"""How the weight of behaviour cloning changes in training: fixed, cosine, or adaptive as in MeanFlowQL."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.options import Options, option


@dataclass(frozen=True)
class BCScheduleConfig(Options):
    """How `bc_weight` changes; the defaults are those of HiccupRL/MeanFlowQL."""

    kind: Literal["fixed", "cosine", "adaptive"] = option("fixed", "constant, cosine decay to a tenth, or adaptive")
    interval: int = option(2000, "adaptive: updates between two adjustments", minimum=1)
    window: int = option(20, "adaptive: recorded losses that the average is taken over", minimum=2)
    threshold: float = option(5.0, "adaptive: react to a loss beyond this factor of the average", above=1)
    increase: float = option(1.2, "adaptive: factor when the loss is high", minimum=1)
    decrease: float = option(0.8, "adaptive: factor when the loss is low", above=0, maximum=1)
    warmup_fraction: float = option(0.1, "adaptive: share of training in which losses are only recorded", minimum=0)
    lowest: float = option(0.1, "adaptive: smallest weight, in units of bc_weight", above=0)
    highest: float = option(10.0, "adaptive: largest weight, in units of bc_weight", above=0)
    padded_average: bool = option(
        False,
        "reproduce the reference's average over a window that is not full yet (too small by the empty places)",
    )


class BCWeight:
    """The weight of behaviour cloning as a pure function of (state, loss, step).

    *cosine*: lo + (bc_weight - lo) / 2 (1 + cos(pi min(step / total, 1))), lo = 0.1 bc_weight.

    *adaptive* (arXiv:2511.13035, adaptive alpha; HiccupRL/MeanFlowQL ``_calculate_dynamic_alpha``): every `interval`
    updates the head's current fit is compared with the average of the recorded ones; beyond `threshold` times the
    average the weight grows by `increase`, below its `threshold`-th part it shrinks by `decrease`, within
    [lowest, highest] bc_weight. During warm-up losses are recorded and the weight rests. The comparison excludes the
    current loss, which is recorded afterwards; with fewer than two recorded losses nothing changes.

    Deviation: the average is over the recorded losses. The reference appends at the end of a zero-filled window but
    averages its first places, so that the average is too small until the window is full and the weight grows although
    the loss is flat; `padded_average` reproduces that.

    Args:
        config: the schedule.
        initial: bc_weight.
        total_steps: planned number of updates.
    """

    def __init__(self, config: BCScheduleConfig, *, initial: float, total_steps: int):
        self.config = config
        self.initial = initial
        self.total_steps = total_steps

    def initial_state(self) -> dict[str, Tensor]:
        """Weight, recorded losses and their number; empty unless adaptive."""
        if self.config.kind != "adaptive":
            return {}
        return {
            "bc_weight": torch.tensor(float(self.initial)),
            "bc_history": torch.zeros(self.config.window),
            "bc_count": torch.tensor(0),
        }

    def __call__(
        self, fit: Float[Tensor, ""], state: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the weight to use now and the new state.

        Args:
            fit: the head's mean fit on this batch, without gradient.
            state: the explicit state, with "step".
        """
        if self.config.kind == "fixed":
            return fit.new_full((), self.initial), {}
        if self.config.kind == "cosine":
            return self._cosine(state["step"]), {}
        return self._adaptive(fit, state)

    def _cosine(self, step: Tensor) -> Tensor:
        low = 0.1 * self.initial
        progress = (step / max(self.total_steps, 1)).clamp(max=1.0)
        return low + (self.initial - low) * 0.5 * (1 + torch.cos(math.pi * progress))

    def _adaptive(self, fit: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        config, step = self.config, state["step"]
        weight, history, count = state["bc_weight"], state["bc_history"], state["bc_count"]
        due = (step > 0) & (step % config.interval == 0)
        active = step >= int(config.warmup_fraction * self.total_steps)

        # Entries are appended at the end, so the recorded ones are the last `count` places.
        place = torch.arange(config.window, device=history.device)
        recorded = place < count if config.padded_average else place >= config.window - count
        average = (history * recorded).sum() / count.clamp(min=1)
        comparable = due & active & (count >= 2)
        grown = (weight * config.increase).clamp(max=config.highest * self.initial)
        weight = torch.where(comparable & (fit > config.threshold * average), grown, weight)
        shrunk = (weight * config.decrease).clamp(min=config.lowest * self.initial)
        weight = torch.where(comparable & (fit < average / config.threshold), shrunk, weight)

        appended = torch.cat([history[1:], fit.reshape(1)])
        return weight, {
            "bc_weight": weight,
            "bc_history": torch.where(due, appended, history),
            "bc_count": torch.where(due, (count + 1).clamp(max=config.window), count),
        }
