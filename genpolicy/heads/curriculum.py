"""What a head offers whose loss changes in the course of training."""

from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class HasCurriculum(Protocol):
    """A head with a curriculum: how far training is enters its loss through the draws.

    So the loss stays a function of parameters, batch and draws alone, and a resumed run, which knows its step, goes on
    with the same draws.
    """

    def draw_at(self, progress: float, n: int, generator: torch.Generator) -> Any:
        """Draw what the loss needs for n rows, at a share `progress` in [0, 1] of training."""
        ...
