"""Behaviour cloning: fit the head to the dataset's actions, without a critic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.critics.base import Critic
from genpolicy.policies.base import Policy, PolicyConfig, PolicyLoss, cloning_formulas, cloning_loss, draw_for_head
from genpolicy.registry import POLICIES


@dataclass(frozen=True)
class BehaviourCloningConfig(PolicyConfig):
    """Hyperparameters of behaviour cloning."""


@POLICIES.register("behaviour_cloning", config=BehaviourCloningConfig)
class BehaviourCloning(Policy):
    """Minimise the mean of the head's loss over the dataset.

        loss = mean_B head.loss(features, action)

    The baseline of every offline method, and the pretraining phase of MeanFlowQL.
    """

    needs_critic = False

    @classmethod
    def metric_formulas(cls, config: Any, of_head: Mapping[str, str]) -> dict[str, str]:
        """See the base class."""
        return cloning_formulas(of_head)

    def draw(self, n: int, generator: torch.Generator, *, progress: float = 1.0) -> Any:
        """Draw what the head's loss needs."""
        return draw_for_head(self.head, n, generator, progress)

    def loss(self, batch: Batch, critic: Critic | None, draws: Any, state: Mapping[str, Tensor]) -> PolicyLoss:
        """Return the mean of the head's loss; critic and state are not used."""
        return cloning_loss(self.head, batch, draws)

    def pretrain_loss(self, batch: Batch, draws: Any) -> PolicyLoss:
        """Return the same."""
        return cloning_loss(self.head, batch, draws)
