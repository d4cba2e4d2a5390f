"""Advantage weighting: clone the data's better actions more, by a weight on each sample's loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.critics.base import Critic, HasValue
from genpolicy.options import option
from genpolicy.policies.base import (
    ACTION_HIGH,
    ACTION_LOW,
    Policy,
    PolicyLoss,
    RankingPolicyConfig,
    cloning_formulas,
    cloning_loss,
    draw_for_head,
    sample_candidates,
)
from genpolicy.registry import POLICIES


@dataclass(frozen=True)
class AdvantageWeightedConfig(RankingPolicyConfig):
    """Hyperparameters of advantage weighting; the defaults are those of IQL in seohongpark/fql."""

    acting: Literal["best", "mean", "single"] = option(
        "single", "best of N candidates by the critic, their mean, or a single sample"
    )
    inverse_temperature: float = option(10.0, "factor on the advantage in the exponent (beta of IQL)", minimum=0)
    max_weight: float = option(100.0, "upper clip of the weights", above=0)
    q_agg: Literal["min", "mean"] = option("min", "how the members' values of an action become one")
    baseline: Literal["value", "samples"] = option(
        "value", "what an action is compared with: the critic's V, or the mean Q of the policy's own actions (AWAC)"
    )
    baseline_samples: int = option(1, "own actions per state (baseline=samples)", minimum=1)


class AdvantageWeightedDraws(NamedTuple):
    """Draws of the weighted loss: the head's, and the noise (N, B, ...) of the baseline's actions, if it has any."""

    head: Any
    noise: Tensor | tuple[()]


@POLICIES.register("advantage_weighted", config=AdvantageWeightedConfig)
class AdvantageWeighted(Policy):
    """Weight each sample's loss by the exponential of its action's advantage.

        weight = min(exp(inverse_temperature (agg_i Q_i(s, a) - V(s))), max_weight)   without gradient
        loss = mean_B weight * head.loss(s, a)

        baseline=value:    V(s) = critic.value(s)
        baseline=samples:  V(s) = mean_j agg_i Q_i(s, a_j),   a_j = clip(head.sample(s, noise_j))

    Nothing is asked of the head but its per-sample loss: with a likelihood it is the projection of the policy
    proportional to data * exp(inverse_temperature * advantage), with a flow or diffusion loss the regression of the
    same reweighted data. The weights are not normalised.

    **Paper notation.** IQL (arXiv:2110.06169, eq. 7): beta = inverse_temperature, V by expectile regression. AWAC
    (arXiv:2006.09359): 1 / lambda = inverse_temperature, V the expected Q of the policy's own action. FAWAC is
    AWAC with a flow (arXiv:2502.02538).

    **Reference.** seohongpark/fql ``agents/iql.py``: the advantage is that of the online critic, its minimum over
    members, and the online V; the clip is at 100.

    Cost: that of the head's loss, and the critic's evaluation; baseline=samples adds `baseline_samples` actions.
    """

    config: AdvantageWeightedConfig

    @classmethod
    def refuses(cls, config: AdvantageWeightedConfig, parts: Parts) -> str | None:
        """Refuse a critic without V where V is the baseline."""
        if config.baseline == "value" and parts.critic is not None and not issubclass(parts.critic, HasValue):
            return (
                f"policy.baseline=value compares Q with the critic's V, but {parts.critic.__name__} learns none. "
                "Use critic=expectile, or policy.baseline=samples."
            )
        return super().refuses(config, parts)

    @classmethod
    def metric_formulas(cls, config: AdvantageWeightedConfig, of_head: Mapping[str, str]) -> dict[str, str]:
        """See the base class."""
        own = f"mean_j {config.q_agg}_i Q_i(s, a_j) of its own actions a_j"
        baseline = "the critic's V" if config.baseline == "value" else own
        return {
            "loss": "mean over batch of weight * the head's loss",
            "advantage": f"mean over batch of {config.q_agg}_i Q_i(s, a) - V(s), V = {baseline}",
            "weight": "mean over batch of min(exp(inverse_temperature * advantage), max_weight)",
            "clipped_weights": "share of rows with weight = max_weight",
        } | cloning_formulas(of_head)

    def draw(self, n: int, generator: torch.Generator, *, progress: float = 1.0) -> AdvantageWeightedDraws:
        """Draw the head's random numbers and the noise of the baseline's actions."""
        head = draw_for_head(self.head, n, generator, progress)
        by_samples = self.config.baseline == "samples"
        return AdvantageWeightedDraws(
            head, self.noise(n, generator, self.config.baseline_samples) if by_samples else ()
        )

    def loss(
        self, batch: Batch, critic: Critic | None, draws: AdvantageWeightedDraws, state: Mapping[str, Tensor]
    ) -> PolicyLoss:
        """Return the weighted mean of the head's loss; see the class."""
        config = self.config
        with torch.no_grad():  # Stop-gradient: the weights say which data count, they are not optimised.
            advantage = self.advantage(batch, self.require(critic), draws.noise)
            weight = (config.inverse_temperature * advantage).exp().clamp(max=config.max_weight)
        fit = self.head.loss(batch.features, batch.actions, draws.head)
        loss = (weight * fit.per_sample).mean()
        metrics = {
            "loss": loss.detach(),
            "bc_loss": fit.per_sample.detach().mean(),
            "advantage": advantage.mean(),
            "weight": weight.mean(),
            "clipped_weights": (weight == config.max_weight).to(weight.dtype).mean(),
        } | {f"head/{name}": value for name, value in fit.metrics.items()}
        return PolicyLoss(loss, metrics, {})

    def advantage(self, batch: Batch, critic: Critic, noise: Tensor | tuple[()]) -> Float[Tensor, " B"]:
        """Return Q(s, a) - V(s) of the dataset's actions, by the online critic."""
        q = self._aggregate(critic.q(batch.features, batch.actions))
        if self.config.baseline == "value":
            return q - cast("HasValue", critic).value(batch.features)
        own = sample_candidates(self.head, batch.features, cast("Tensor", noise)).clamp(ACTION_LOW, ACTION_HIGH)
        values = self._aggregate(critic.q(batch.features.expand(len(own), *batch.features.shape), own))
        return q - values.mean(dim=0)

    def pretrain_loss(self, batch: Batch, draws: AdvantageWeightedDraws) -> PolicyLoss:
        """Return the unweighted mean of the head's loss."""
        return cloning_loss(self.head, batch, draws.head)

    def _aggregate(self, qs: Float[Tensor, "E *batch"]) -> Float[Tensor, "*batch"]:
        return qs.amin(dim=0) if self.config.q_agg == "min" else qs.mean(dim=0)
