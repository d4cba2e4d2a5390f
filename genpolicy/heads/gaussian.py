"""The Gaussian head: the classical unimodal policy, fitted by maximum likelihood."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import ConfigError
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class LogStdConfig(Options):
    """The range of a learned log standard deviation, which is clipped hard: outside it has no gradient."""

    log_std_min: float = option(-5.0, "lower clip of the log standard deviation")
    log_std_max: float = option(2.0, "upper clip of the log standard deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_std_min >= self.log_std_max:
            raise ConfigError(
                f"{type(self).__name__}.log_std_min is {self.log_std_min}; it must be smaller than log_std_max "
                f"({self.log_std_max}). Lower the first or raise the last."
            )


@dataclass(frozen=True)
class GaussianConfig(LogStdConfig):
    """Hyperparameters of the Gaussian head."""

    backbone: Options = slot("backbone", MLPConfig(), "the network of the features that gives mean (and log-std)")
    std: Literal["state_dependent", "constant", "unit"] = option(
        "state_dependent", "standard deviation from the network, one learned vector for all states, or 1 (as in IQL)"
    )


def normal_log_prob(z: Float[Tensor, "*batch A"], log_std: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
    """Return log N(mean + std z; mean, std^2) summed over action dims, in nats."""
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


@HEADS.register("gaussian", config=GaussianConfig)
class GaussianHead(GenerativeHead):
    """Diagonal Gaussian N(mean(features), std(features)^2), not squashed: action = mean + std * noise.

        per_sample = -log N(action; mean, std^2), summed over action dims, constants included

    The standard deviation is a second output of the network (`state_dependent`), a learned vector that starts at 1
    (`constant`), or 1 (`unit`: nothing to learn, the loss is half the squared error up to a constant). The mode of
    the policy is the sample of zero noise (`temperature=0` when acting).

    **Paper notation.** mu = mean, sigma = std, epsilon = noise. No flow time takes part.

    **Reference.** seohongpark/fql ``utils/networks.py``, ``Actor``: log-std is clipped to [-5, 2]; its IQL has the
    log-std 0 by default (``const_std``). Its two output layers are one here, with twice the outputs, and its
    ``final_fc_init_scale`` scales the variance of their initial weights, `backbone.output_init_scale` the weights.

    Cost: one network evaluation to train and to act.
    """

    unimodal = True

    config: GaussianConfig

    @classmethod
    def metric_formulas(cls, config: GaussianConfig) -> dict[str, str]:
        """See the base class."""
        return {"nll": "mean over batch of -log N(action; mean, std^2), in nats"}

    def __init__(self, config: GaussianConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        outputs = 2 * action_dim if config.std == "state_dependent" else action_dim
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=0, num_times=0, output_dim=outputs
        )
        self.constant_log_std = nn.Parameter(torch.zeros(action_dim)) if config.std == "constant" else None

    def distribution(self, features: Float[Tensor, "*batch F"]) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each (\\*batch, A)."""
        mean = self.backbone(features)
        if self.config.std == "unit":
            return mean, torch.zeros_like(mean)
        if self.constant_log_std is None:
            mean, log_std = mean.chunk(2, dim=-1)
        else:
            log_std = self.constant_log_std.expand_as(mean)
        return mean, log_std.clamp(self.config.log_std_min, self.config.log_std_max)

    def log_prob(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch"]:
        """Return log N(action; mean, std^2) summed over action dims: (\\*batch,), in nats."""
        mean, log_std = self.distribution(features)
        return normal_log_prob((action - mean) * torch.exp(-log_std), log_std)

    def sample_with_log_prob(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
        """Return mean + std * noise, (\\*batch, A), and its log density, (\\*batch,), in nats."""
        mean, log_std = self.distribution(features)
        return mean + torch.exp(log_std) * noise, normal_log_prob(noise, log_std)

    def draw(self, n: int, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the likelihood needs no random numbers."""
        return ()

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: tuple[()]) -> HeadLoss:
        """Return the negative log-likelihood of each row, in nats."""
        nll = -self.log_prob(features, action)
        return HeadLoss(nll, nll, {"nll": nll.detach().mean()})

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Return mean + std * noise."""
        return self.sample_with_log_prob(features, noise)[0]
