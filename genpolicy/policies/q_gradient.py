"""Q-gradient: improve the head by the critic's gradient through its samples, held to the data by cloning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.critics.base import Critic
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.protocols import HasLossWithSample
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
)
from genpolicy.policies.bc_weight import BCScheduleConfig, BCWeight
from genpolicy.registry import POLICIES


@dataclass(frozen=True)
class QGradientConfig(RankingPolicyConfig):
    """Hyperparameters of the Q-gradient policy; the defaults are those of HiccupRL/MeanFlowQL."""

    bc_weight: float = option(10.0, "weight of the head's loss (alpha of the papers)", minimum=0)
    bc_schedule: BCScheduleConfig = option(BCScheduleConfig(), "how bc_weight changes in training")
    normalize_q: bool = option(True, "divide the Q term by the batch mean of |Q|, without gradient")
    q_agg: Literal["mean", "min"] = option("mean", "how the members' values of the sampled action become one")
    improve: Literal["sample", "mode"] = option(
        "sample", "the action whose Q is maximised: a sample, or the head's output at zero noise (mode of a Gaussian)"
    )
    bound_weight: float = option(1.0, "weight of the penalty on actions outside [-1, 1] before clipping", minimum=0)


class QGradientDraws(NamedTuple):
    """Draws of the Q-gradient loss: the head's, and the noise (B, ...) of the improved action.

    `noise` is () where the improved action needs none of its own: at the mode, or if the head's loss generates it.
    """

    head: Any
    noise: Tensor | tuple[()]


@POLICIES.register("q_gradient", config=QGradientConfig)
class QGradient(Policy):
    """Maximise Q over the head's own samples and keep the head close to the data.

        x = head.sample(features, noise)
        loss = -scale * mean Q(features, clip(x)) + bound_weight * bound + bc_weight * mean head.loss
        bound = mean relu(x - 1) + mean relu(-1 - x)
        scale = 1 / max(mean |Q|, 1e-6) without gradient if normalize_q, else 1

    The Q gradient is zero for clipped coordinates, so outside the bounds only the penalty and the fit act. A head whose
    loss generates actions from noise of its own hands them over, so that Q and fit pull at the same action (FQL,
    arXiv:2502.02538). With improve=mode the noise is zero, as in TD3+BC (arXiv:2106.06860), whose lambda is our
    scale / bc_weight with normalize_q, and in the DDPG+BC form of IQL.

    **Reference.** HiccupRL/MeanFlowQL ``agents/meanflowql.py`` (arXiv:2511.13035): the online critic's mean over
    members scores the action; the weight multiplies the whole head loss, auxiliary terms included.
    """

    config: QGradientConfig

    def __init__(self, config: QGradientConfig, *, head: GenerativeHead, total_steps: int):
        super().__init__(config, head=head, total_steps=total_steps)
        self.at_mode = config.improve == "mode"
        self.given_by_loss = isinstance(head, HasLossWithSample) and not self.at_mode
        self.bc_weight = BCWeight(config.bc_schedule, initial=config.bc_weight, total_steps=total_steps)

    @classmethod
    def refuses(cls, config: QGradientConfig, parts: Parts) -> str | None:
        """Refuse a head whose samples do not carry the critic's gradient to all that their law depends on."""
        if not parts.head.pathwise:  # type: ignore[attr-defined]
            return (
                f"policy=q_gradient improves a head by the gradient through its samples, but {parts.head.__name__} "
                "chooses among alternatives, and that choice has no gradient. "
                "Use policy=advantage_weighted or policy=best_of_n."
            )
        return super().refuses(config, parts)

    @classmethod
    def metric_formulas(cls, config: QGradientConfig, of_head: Mapping[str, str]) -> dict[str, str]:
        """See the base class."""
        x = "sample(s, noise)" if config.improve == "sample" else "sample(s, 0)"
        return {
            "loss": "q_loss + bound_weight * bound_loss + bc_weight * bc_loss",
            "q_loss": "-q / mean over batch of abs(Q)" if config.normalize_q else "-q",
            "bound_loss": f"mean over batch and action dims of relu(x - 1) + relu(-1 - x), x = {x}",
            "bc_weight": f"policy.bc_weight by its schedule ({config.bc_schedule.kind})",
            "q": f"mean over batch of Q = {config.q_agg}_i Q_i(s, clip(x))",
        } | cloning_formulas(of_head)

    def initial_state(self) -> dict[str, Tensor]:
        """The adaptive weight's state."""
        return self.bc_weight.initial_state()

    def draw(self, n: int, generator: torch.Generator, *, progress: float = 1.0) -> QGradientDraws:
        """Draw the head's random numbers and the noise of the improved action."""
        head = draw_for_head(self.head, n, generator, progress)
        return QGradientDraws(head, () if self.at_mode or self.given_by_loss else self.head.noise(n, generator))

    def loss(
        self, batch: Batch, critic: Critic | None, draws: QGradientDraws, state: Mapping[str, Tensor]
    ) -> PolicyLoss:
        """Return the Q term, the bound penalty and the weighted fit; see the class."""
        critic = self.require(critic)
        # Fit to the data
        fit, action = self._fit(batch, draws)
        weight, new_state = self.bc_weight(fit.fit.detach().mean(), state)
        bc_loss = fit.per_sample.mean()

        # Improvement by the critic
        bound_loss = functional.relu(action - ACTION_HIGH).mean() + functional.relu(ACTION_LOW - action).mean()
        qs = critic.q(batch.features, action.clamp(ACTION_LOW, ACTION_HIGH))
        q = qs.mean(dim=0) if self.config.q_agg == "mean" else qs.amin(dim=0)
        # Stop-gradient: the scale is a unit of measure, not something to optimise.
        scale = q.detach().abs().mean().clamp(min=1e-6).reciprocal() if self.config.normalize_q else 1.0
        q_loss = -scale * q.mean()

        loss = q_loss + self.config.bound_weight * bound_loss + weight * bc_loss
        metrics = {
            "loss": loss.detach(),
            "q_loss": q_loss.detach(),
            "bound_loss": bound_loss.detach(),
            "bc_loss": bc_loss.detach(),
            "bc_weight": weight,
            "q": q.detach().mean(),
        } | {f"head/{name}": value for name, value in fit.metrics.items()}
        return PolicyLoss(loss, metrics, new_state)

    def pretrain_loss(self, batch: Batch, draws: QGradientDraws) -> PolicyLoss:
        """Return the mean of the head's loss."""
        return cloning_loss(self.head, batch, draws.head)

    def _fit(self, batch: Batch, draws: QGradientDraws) -> tuple[HeadLoss, Float[Tensor, "B A"]]:
        """Return the head's loss and the action whose Q is maximised."""
        if self.given_by_loss:
            return cast("HasLossWithSample", self.head).loss_with_sample(batch.features, batch.actions, draws.head)
        noise = batch.features.new_zeros(len(batch.features), *self.head.noise_shape) if self.at_mode else draws.noise
        assert isinstance(noise, Tensor)
        return self.head.loss(batch.features, batch.actions, draws.head), self.head.sample(batch.features, noise)
