"""What a head may offer beyond `GenerativeHead`; policies and critics ask for it by these names."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads.base import HeadLoss


@runtime_checkable
class HasCurriculum(Protocol):
    """A head with a curriculum: how far training is enters its loss through the draws.

    So the loss stays a function of parameters, batch and draws alone, and a resumed run, which knows its step, goes on
    with the same draws. A head that is configured without its curriculum may say so by an attribute `follows_progress`
    that is false: its draws are then made faster on a GPU.
    """

    def draw_at(self, progress: float, n: int, generator: torch.Generator) -> Any:
        """Draw what the loss needs for n rows, at a share `progress` in [0, 1] of training."""
        ...


@runtime_checkable
class HasLogProb(Protocol):
    """A head whose density is known."""

    def log_prob(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch"]:
        """Return the log density of actions, in nats."""
        ...

    def sample_with_log_prob(
        self, features: Float[Tensor, "*batch F"], noise: Tensor
    ) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
        """Return what `sample` returns, and its log density, both differentiable."""
        ...


@runtime_checkable
class HasLossWithSample(Protocol):
    """A head whose loss generates actions from noise of its own, which the policy shall improve."""

    def loss_with_sample(
        self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: Any
    ) -> tuple[HeadLoss, Float[Tensor, "B A"]]:
        """Return what `loss` returns, and the actions that it generated: differentiable, not clipped."""
        ...
