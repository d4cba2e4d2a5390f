"""A head written outside genpolicy, in one file: flow matching, sampled with a few Euler steps."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genpolicy.heads import GenerativeHead, HeadLoss, paths
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class EulerFlowConfig(Options):
    """Hyperparameters of the Euler-flow head."""

    backbone: Options = slot("backbone", MLPConfig(), "the network v(features, x_t, t)")
    euler_steps: int = option(10, "network evaluations per action", minimum=1)


class EulerFlowDraws(NamedTuple):
    """All randomness of the loss: noise (B, A) and time (B, 1)."""

    noise: Tensor
    t: Tensor


@HEADS.register("euler_flow", config=EulerFlowConfig)
class EulerFlowHead(GenerativeHead):
    """Flow matching: fit v to noise - action along the path, follow v from noise (t = 1) to the action (t = 0)."""

    def __init__(self, config: EulerFlowConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.euler_steps
        sizes = {"feature_dim": feature_dim, "input_dim": action_dim, "num_times": 1, "output_dim": action_dim}
        self.backbone = BACKBONES.create(config.backbone, **sizes)

    def draw(self, n: int, generator: torch.Generator) -> EulerFlowDraws:
        """Draw noise and times for n rows."""
        t = torch.rand(n, 1, generator=generator, device=generator.device)
        return EulerFlowDraws(self.noise(n, generator), t)

    def loss(self, features: Tensor, action: Tensor, draws: EulerFlowDraws) -> HeadLoss:
        """Return mean over action dims of (v(features, x_t, t) - (noise - action))^2, one value per row."""
        x_t = paths.interpolate(action, draws.noise, draws.t)
        error = self.backbone(features, x_t, draws.t) - paths.velocity(action, draws.noise)
        per_sample = error.square().mean(dim=-1)
        return HeadLoss(per_sample, per_sample, {"flow_loss": per_sample.detach().mean()})

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Follow the field in equal steps."""
        x = noise
        for k in range(self.steps, 0, -1):
            t = noise.new_full((1,) * noise.ndim, k / self.steps)  # shared by all rows
            x = x - self.backbone(features, x, t) / self.steps
        return x
