"""The space in which actions are generated: the box [-1, 1] itself, or all numbers, squashed into the box."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


class ActionTransform(ABC):
    """A map between actions in [-1, 1] and the latent actions that a head generates."""

    @abstractmethod
    def to_latent(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Return the latent action that a dataset's action is fitted as."""

    @abstractmethod
    def to_action(self, latent: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Return the action that a generated latent action stands for."""


class Identity(ActionTransform):
    """action = latent: samples may leave the box, and the policy clips them."""

    def to_latent(self, action: Tensor) -> Tensor:
        """Return the action."""
        return action

    def to_action(self, latent: Tensor) -> Tensor:
        """Return the latent action."""
        return latent


@dataclass(frozen=True)
class Softsign(ActionTransform):
    """action = y / (scale + |y|), with the inverse y = scale action / (1 - |action|).

    **Reference.** HiccupRL/MeanFlowQL ``agents/meanflowql_beta.py``, options `inv_actions` and `scale_norm_factor` =
    1 - scale. Deviation: it writes the way back as softsign(y) / scale, which is not the inverse: an action a comes
    back as a / (1 - (1 - scale) |a|), with its default scale of 0.01 an action of 0.5 as 0.99.

    Args:
        scale: slope of the inverse at 0.
        margin: dataset actions are drawn in to [-1 + margin, 1 - margin] first, as the inverse is infinite at +-1.
    """

    scale: float
    margin: float

    def to_latent(self, action: Tensor) -> Tensor:
        """Return scale a / (1 - |a|) of the drawn-in action a."""
        inside = action.clamp(self.margin - 1, 1 - self.margin)
        return self.scale * inside / (1 - inside.abs())

    def to_action(self, latent: Tensor) -> Tensor:
        """Return y / (scale + |y|)."""
        return latent / (self.scale + latent.abs())


@dataclass(frozen=True)
class Tanh(ActionTransform):
    """action = tanh(y), with the inverse y = artanh(action).

    Args:
        margin: dataset actions are drawn in to [-1 + margin, 1 - margin] first, as the inverse is infinite at +-1.
    """

    margin: float

    def to_latent(self, action: Tensor) -> Tensor:
        """Return artanh of the drawn-in action."""
        return torch.atanh(action.clamp(self.margin - 1, 1 - self.margin))

    def to_action(self, latent: Tensor) -> Tensor:
        """Return tanh(y)."""
        return torch.tanh(latent)


def make_action_transform(
    name: Literal["none", "softsign", "tanh"], *, softsign_scale: float, margin: float
) -> ActionTransform:
    """Make the transform of that name."""
    match name:
        case "none":
            return Identity()
        case "softsign":
            return Softsign(softsign_scale, margin)
        case "tanh":
            return Tanh(margin)
