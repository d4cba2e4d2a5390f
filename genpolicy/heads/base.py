"""What every generative head promises."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HeadLoss(NamedTuple):
    """The fit of a head to a batch, one value per sample: the policy weights and averages."""

    per_sample: Float[Tensor, " B"]
    """(B,), everything the head wants minimised."""

    fit: Float[Tensor, " B"]
    """(B,), the regression (or likelihood) term alone, without auxiliary terms: what an adaptive weight watches."""

    metrics: dict[str, Tensor]
    """Detached 0-d tensors for the log."""


class GenerativeHead(nn.Module, ABC):
    """How an action is generated from features and noise, and how that is fitted to data.

    A head knows nothing of critics, optimisers or environments. Randomness is an argument: `draw` and `noise` make
    it, `loss` and `sample` are pure functions of parameters and arguments.

    Args:
        config: the head's hyperparameters.
        feature_dim: F, width of the encoded observation.
        action_dim: A.
    """

    steps: int = 1
    """Network evaluations per action."""

    pathwise = True
    """Whether gradients through `sample` reach everything that a sample's law depends on; False where a sample chooses
    among alternatives, as a mixture does."""

    unimodal = False
    """Whether the law of an action can have one mode only."""

    @classmethod
    def stochastic(cls, config: Any) -> bool:
        """Whether samples depend on the noise."""
        return True

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """What each metric of `loss` is, by name, for the pages of the algorithms; your own head may leave it out."""
        return {}

    def __init__(self, config: Any, *, feature_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.feature_dim = feature_dim
        self.action_dim = action_dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise that one action needs."""
        return (self.action_dim,)

    @property
    def noise_law(self) -> tuple[Literal["normal", "uniform"], float]:
        """What each number of the noise is drawn from, for those who draw it without us.

        Normal with mean 0 and this standard deviation, or uniform between plus and minus this.
        """
        return "normal", 1.0

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw what `sample` needs for n actions: (n, \\*noise_shape), on the generator's device."""
        return torch.randn(n, *self.noise_shape, generator=generator, device=generator.device)

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Any:
        """Draw every random number that `loss` needs for n rows, as a (possibly nested) tuple of tensors."""

    @abstractmethod
    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: Any) -> HeadLoss:
        """Fit to dataset actions; one value per row, no reduction, no weighting.

        Args:
            features: (B, F).
            action: (B, A), the dataset's actions.
            draws: what `draw(B, ...)` returned.
        """

    @abstractmethod
    def sample(self, features: Float[Tensor, "*batch F"], noise: Tensor) -> Float[Tensor, "*batch A"]:
        """Generate actions: deterministic in its arguments, differentiable, not clipped to the action bounds.

        Args:
            features: (\\*batch, F).
            noise: (\\*batch, \\*noise_shape), from `noise`.
        """
