"""Soft policy: maximise value and entropy, the entropy's weight learned (SAC)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.critics.base import Critic
from genpolicy.heads.base import GenerativeHead
from genpolicy.heads.protocols import HasLogProb
from genpolicy.options import option
from genpolicy.policies.base import (
    ACTION_HIGH,
    ACTION_LOW,
    Policy,
    PolicyLoss,
    RankingPolicyConfig,
    cloning_loss,
    draw_for_head,
)
from genpolicy.registry import POLICIES


@dataclass(frozen=True)
class SoftConfig(RankingPolicyConfig):
    """Hyperparameters of the soft policy; the defaults are those of SAC in seohongpark/fql."""

    acting: Literal["best", "mean", "single"] = option(
        "single", "best of N candidates by the critic, their mean, or a single sample"
    )
    entropy_weight: float = option(1.0, "weight of the entropy (alpha of SAC), the first one if it is learned", above=0)
    learn_entropy_weight: bool = option(True, "move the weight so that the entropy meets its target; false: fixed")
    target_entropy_per_dim: float = option(
        -0.5, "target of the entropy in nats, per action dim (-1 in arXiv:1812.05905, -0.5 in RLPD and seohongpark/fql)"
    )
    q_agg: Literal["mean", "min"] = option("mean", "how the members' values of the sampled action become one")


class SoftDraws(NamedTuple):
    """Draws of the soft loss: the head's (for pretraining), and the noise (B, ...) of the improved action."""

    head: Any
    noise: Tensor


@POLICIES.register("soft", config=SoftConfig)
class Soft(Policy):
    """Maximise Q and entropy over the head's own samples; no behaviour cloning.

        x, log_prob = head.sample_with_log_prob(features, noise)
        actor = mean (weight * log_prob - agg_i Q_i(features, clip(x)))     the weight without gradient
        balance = weight * (entropy - target_entropy),  entropy = -mean log_prob  without gradient
        loss = actor + balance,   weight = exp(log_entropy_weight),   target_entropy = A * target_entropy_per_dim

    `log_entropy_weight` is a parameter of the policy, optimised with the head; `balance` alone moves it: up while the
    entropy is below its target, down above. For a given Q the best law is proportional to exp(Q / weight). Nothing
    holds it to the dataset: it is for learning online, with data beside it (RLPD, arXiv:2302.02948).

    **Paper notation.** SAC (arXiv:1812.05905, eq. 9 and 18): alpha = weight, H-bar = target_entropy. The balance is
    linear in alpha, and not in its logarithm.

    **Reference.** seohongpark/fql ``agents/sac.py``: mean over members in the actor's loss (the paper takes the
    minimum), one Adam for actor and weight, next actions by the online actor.

    Cost: one sample with its density to train, one to act.
    """

    config: SoftConfig

    def __init__(self, config: SoftConfig, *, head: GenerativeHead, total_steps: int):
        super().__init__(config, head=head, total_steps=total_steps)
        start = torch.tensor(math.log(config.entropy_weight))
        self.log_entropy_weight = nn.Parameter(start, requires_grad=config.learn_entropy_weight)
        self.target_entropy = config.target_entropy_per_dim * head.action_dim

    @classmethod
    def refuses(cls, config: SoftConfig, parts: Parts) -> str | None:
        """Refuse a head that cannot differentiate the density of its own samples."""
        if not (issubclass(parts.head, HasLogProb) and parts.head.pathwise):  # type: ignore[attr-defined]
            lacks = "has no gradient through its samples" if issubclass(parts.head, HasLogProb) else "knows no density"
            return (
                f"policy=soft maximises the entropy of the head's samples, but {parts.head.__name__} {lacks}. "
                "Use head=tanh_gaussian, or a policy without entropy, as in policy=q_gradient."
            )
        return super().refuses(config, parts)

    @classmethod
    def metric_formulas(cls, config: SoftConfig, of_head: Mapping[str, str]) -> dict[str, str]:
        """See the base class."""
        return {
            "loss": "actor_loss + entropy_weight_loss",
            "actor_loss": f"mean over batch of alpha log p(x) - {config.q_agg}_i Q_i(s, clip(x)), x = sample(s, noise)",
            "entropy_weight_loss": f"alpha (entropy - H), H = {config.target_entropy_per_dim:g} A for A action dims",
            "entropy_weight": "alpha",
            "entropy": "mean over batch of -log p(x), in nats",
            "q": f"mean over batch of {config.q_agg}_i Q_i(s, clip(x))",
        }

    def draw(self, n: int, generator: torch.Generator, *, progress: float = 1.0) -> SoftDraws:
        """Draw the head's random numbers and the noise of the improved action."""
        return SoftDraws(draw_for_head(self.head, n, generator, progress), self.head.noise(n, generator))

    def loss(self, batch: Batch, critic: Critic | None, draws: SoftDraws, state: Mapping[str, Tensor]) -> PolicyLoss:
        """Return the soft improvement and the balance of the entropy; see the class."""
        critic = self.require(critic)
        action, log_prob = cast("HasLogProb", self.head).sample_with_log_prob(batch.features, draws.noise)
        qs = critic.q(batch.features, action.clamp(ACTION_LOW, ACTION_HIGH))
        q = qs.mean(dim=0) if self.config.q_agg == "mean" else qs.amin(dim=0)
        actor_loss = (self.entropy_weight() * log_prob - q).mean()

        # Stop-gradient: the balance moves the weight only.
        entropy = -log_prob.detach().mean()
        weight = self.log_entropy_weight.exp()
        entropy_weight_loss = weight * (entropy - self.target_entropy)

        metrics = {
            "actor_loss": actor_loss.detach(),
            "entropy_weight_loss": entropy_weight_loss.detach(),
            "entropy_weight": weight.detach(),
            "entropy": entropy,
            "q": q.detach().mean(),
        }
        loss = actor_loss + entropy_weight_loss
        return PolicyLoss(loss, {"loss": loss.detach()} | metrics, {})

    def pretrain_loss(self, batch: Batch, draws: SoftDraws) -> PolicyLoss:
        """Return the mean of the head's loss."""
        return cloning_loss(self.head, batch, draws.head)

    # What a soft critic asks

    def next_actions_with_log_prob(
        self, features: Float[Tensor, "B F"], noise: Float[Tensor, "N B ..."]
    ) -> tuple[Float[Tensor, "N B A"], Float[Tensor, "N B"]]:
        """Return the clipped candidates of `next_actions` and their log densities, in nats."""
        head = cast("HasLogProb", self.target_head or self.head)
        action, log_prob = head.sample_with_log_prob(features.expand(len(noise), *features.shape), noise)
        return action.clamp(ACTION_LOW, ACTION_HIGH), log_prob

    def entropy_weight(self) -> Float[Tensor, ""]:
        """Return the weight of the entropy, without gradient."""
        return self.log_entropy_weight.detach().exp()
