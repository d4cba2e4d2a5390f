"""What every critic promises."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.options import Options, option


class CriticLoss(NamedTuple):
    """The critic's objective on a batch."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor]
    """Detached 0-d tensors for the log."""


class ActionSource(Protocol):
    """What a critic may ask of a policy: actions at the next states. It never sees the head."""

    @property
    def ranked_candidates(self) -> int:
        """How many candidates the policy ranks by Q when it acts; 1 if it doesn't."""
        ...

    def noise(self, n: int, generator: torch.Generator, candidates: int) -> Tensor:
        """Draw noise for n states and so many candidates each."""
        ...

    def next_actions(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return candidates (N, B, A), clipped to the action bounds; by the target head if the policy has one."""
        ...


@runtime_checkable
class SoftActionSource(ActionSource, Protocol):
    """A policy that maximises entropy besides value, as a critic of soft values needs it."""

    def next_actions_with_log_prob(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return candidates (N, B, A) and their log densities (N, B), in nats."""
        ...

    def entropy_weight(self) -> Tensor:
        """Return the temperature of the entropy (alpha of SAC), 0-d, without gradient."""
        ...


@runtime_checkable
class HasValue(Protocol):
    """A critic that learns V besides Q."""

    def value(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch"]:
        """Return the value of states."""
        ...


@dataclass(frozen=True)
class CriticConfig(Options):
    """Options that every critic has."""

    discount: float = option(0.99, "discount per environment step", minimum=0, maximum=1)
    n_step: int = option(1, "environment steps summed in a bootstrapped return", minimum=1)


class Critic(nn.Module, ABC):
    """How values are learned.

    A critic asks the policy for actions and never sees a head. Its target parameters and their moving average live
    here; they are parameters with ``requires_grad=False``. Randomness is an argument, as everywhere.

    Args:
        config: the critic's hyperparameters.
        feature_dim: F, width of the encoded observation.
        action_dim: A.
    """

    config: CriticConfig

    def __init__(self, config: Any, *, feature_dim: int, action_dim: int):
        super().__init__()
        self.config = config
        self.feature_dim = feature_dim
        self.action_dim = action_dim

    @classmethod
    def refuses(cls, config: Any, parts: Parts) -> str | None:
        """Say why this critic cannot work with the other parts of a configuration, and the way out; None if it can."""
        return None

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """What each metric of `loss` is, by name; a critic of your own may leave it out."""
        return {}

    @abstractmethod
    def q(self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]) -> Float[Tensor, "E *batch"]:
        """Return every member's value."""

    @abstractmethod
    def target_q(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "E *batch"]:
        """Return every member's value by the target parameters (by `q` itself for a critic without them)."""

    @abstractmethod
    def draw(self, n: int, policy: ActionSource, generator: torch.Generator) -> Any:
        """Draw every random number that `loss` needs for n rows."""

    @abstractmethod
    def loss(self, batch: Batch, policy: ActionSource, draws: Any) -> CriticLoss:
        """Return the critic's objective; no gradient reaches the policy."""

    def update_targets(self) -> None:
        """Move the target parameters towards the online ones, in place, after the critic's step."""
