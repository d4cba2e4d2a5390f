"""A flow of the data and a one-step student of it: the policy of Flow Q-Learning (arXiv:2502.02538)."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.flow import FlowConfig, FlowDraws, FlowHead, FlowMatchingConfig
from genpolicy.options import option
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class DistilledFlowConfig(FlowMatchingConfig):
    """Hyperparameters of the distilled flow; the backbone is that of both networks, the student's without time."""

    distill_weight: float = option(10.0, "weight of the distillation (alpha of FQL)", minimum=0)


class DistilledFlowDraws(NamedTuple):
    """Draws of the distilled flow's loss: the flow's, and the noise (B, A) of the distillation."""

    flow: FlowDraws
    noise: Tensor


@HEADS.register("distilled_flow", config=DistilledFlowConfig)
class DistilledFlowHead(GenerativeHead):
    """Distilled flow: a flow learns the data, a student learns to reach the flow's action in one step, and acts.

        flow(features, noise): K steps of the solver along a velocity fitted to the data (`FlowHead`)
        distillation = mean over action dims of (student(features, noise) - clip(flow(features, noise), -1, 1))^2
        per_sample = flow-matching loss + distill_weight * distillation

    The flow's action is a constant in the distillation; the student's is not clipped. `sample` is the student. A
    policy that follows a critic's gradient therefore moves the student only: no gradient goes through the solver, and
    the flow stays a model of the data. The action that it improves is the one of the distillation (`loss_with_sample`).

    **Paper notation** (arXiv:2502.02538, eqs. 5, 7 and 9): mu_omega = student, mu_theta = flow, z = noise, M = K,
    alpha = distill_weight if the policy's bc_weight is 1. The flow's clock: `FlowHead`.

    **Reference.** seohongpark/fql ``agents/fql.py``: mean over action dims, 10 Euler steps, the same noise for
    student, flow and Q term.

    Cost: training, two forward and backward passes and K forward passes without gradient (2 K with midpoint and heun);
    acting, one forward pass.
    """

    config: DistilledFlowConfig

    @classmethod
    def metric_formulas(cls, config: DistilledFlowConfig) -> dict[str, str]:
        """See the base class."""
        distillation = "mean over batch and action dims of (student(noise) - clip(flow(noise)))^2"
        return FlowHead.metric_formulas(config) | {"distill_loss": distillation}

    def __init__(self, config: DistilledFlowConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        shared = {field.name: getattr(config, field.name) for field in fields(FlowMatchingConfig)}
        self.flow = FlowHead(FlowConfig(**shared), feature_dim=feature_dim, action_dim=action_dim)
        self.student = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=0, output_dim=action_dim
        )

    def draw(self, n: int, generator: torch.Generator) -> DistilledFlowDraws:
        """Draw the flow's numbers and the noise of the distillation for n rows."""
        return DistilledFlowDraws(self.flow.draw(n, generator), self.noise(n, generator))

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: DistilledFlowDraws) -> HeadLoss:
        """Return the flow-matching loss and the weighted distillation; see the class."""
        return self.loss_with_sample(features, action, draws)[0]

    def loss_with_sample(
        self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: DistilledFlowDraws
    ) -> tuple[HeadLoss, Float[Tensor, "B A"]]:
        """Return the loss, and the student's actions in it."""
        fit = self.flow.loss(features, action, draws.flow)
        with torch.no_grad():  # Stop-gradient: the flow teaches, the student alone learns from the distance.
            target = self.flow.sample(features, draws.noise).clamp(-1, 1)
        sample = self.sample(features, draws.noise)
        distillation = (sample - target).square().mean(dim=-1)
        metrics = fit.metrics | {"distill_loss": distillation.detach().mean()}
        return HeadLoss(fit.per_sample + self.config.distill_weight * distillation, fit.fit, metrics), sample

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with one evaluation of the student."""
        return self.student(features, noise)
