"""The deterministic head: a network gives the action, as in TD3 (arXiv:1802.09477) and ReBRAC (arXiv:2305.09836)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class DeterministicConfig(Options):
    """Hyperparameters of the deterministic head."""

    backbone: Options = slot("backbone", MLPConfig(), "the network of the features that gives the action")
    tanh: bool = option(True, "squash the network's output into [-1, 1]")
    noise_std: float = option(0.0, "standard deviation of the noise on samples (TD3, ReBRAC: 0.2)", minimum=0)
    noise_clip: float = option(0.5, "largest noise on samples", above=0)
    reduction: Literal["sum", "mean"] = option(
        "sum", "how the squared errors of the action dims become one: sum as in ReBRAC, mean as in TD3+BC"
    )


@HEADS.register("deterministic", config=DeterministicConfig)
class DeterministicHead(GenerativeHead):
    """Deterministic action tanh(network(features)), with clipped noise on samples if asked for.

        mode = tanh(network(features)),   or   network(features)
        sample = mode + clip(noise_std * noise, -noise_clip, noise_clip)
        per_sample = sum (or mean) over action dims of (mode - action)^2

    The noise is that of TD3's smoothed target policy: a policy asks for the mode by zero noise, as in TD3's actor
    loss and (with `temperature=0`) when acting. With noise_std=0 samples do not depend on the noise at all.

    **Paper notation** (arXiv:1802.09477, equation 14): pi(s) = mode, sigma = noise_std, c = noise_clip. No flow time
    takes part.

    **Reference.** seohongpark/fql ``agents/rebrac.py``: noise 0.2 clipped at 0.5, squared errors summed over action
    dims. sfujim/TD3_BC ``TD3_BC.py``: the same noise, errors averaged.

    Cost: one network evaluation to train and to act.
    """

    unimodal = True

    config: DeterministicConfig

    @classmethod
    def stochastic(cls, config: Any) -> bool:
        """Whether there is noise on samples."""
        return config.noise_std > 0

    @classmethod
    def metric_formulas(cls, config: DeterministicConfig) -> dict[str, str]:
        """See the base class."""
        return {"mse": "mean over batch and action dims of (mode - action)^2"}

    def __init__(self, config: DeterministicConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=0, num_times=0, output_dim=action_dim
        )

    def mode(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch A"]:
        """Return the action without noise."""
        output = self.backbone(features)
        return torch.tanh(output) if self.config.tanh else output

    def draw(self, n: int, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the regression needs no random numbers."""
        return ()

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: tuple[()]) -> HeadLoss:
        """Return the squared error of each row's mode."""
        squares = (self.mode(features) - action).square()
        error = squares.sum(dim=-1) if self.config.reduction == "sum" else squares.mean(dim=-1)
        return HeadLoss(error, error, {"mse": squares.detach().mean()})

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Return the mode plus clipped noise."""
        limit = self.config.noise_clip
        return self.mode(features) + (self.config.noise_std * noise).clamp(-limit, limit)
