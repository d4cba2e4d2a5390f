"""TD learning by classification: values as histograms, fitted by cross-entropy (HL-Gauss, arXiv:2403.03950)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.critics.base import CriticLoss
from genpolicy.critics.td import TDConfig, TDCritic
from genpolicy.errors import ConfigError
from genpolicy.options import option
from genpolicy.registry import CRITICS


@dataclass(frozen=True)
class CategoricalConfig(TDConfig):
    """Hyperparameters of the categorical critic; bins and smoothing are those of arXiv:2403.03950."""

    num_bins: int = option(51, "bins of the support, all of one width", minimum=2)
    v_min: float = option(-100.0, "lower end of the support; a bin or two below the smallest return")
    v_max: float = option(100.0, "upper end of the support; a bin or two above the largest return")
    sigma_ratio: float = option(0.75, "standard deviation of a target's Gaussian, in bin widths", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_min < self.v_max:
            raise ConfigError(
                f"CategoricalConfig.v_min is {self.v_min} and v_max {self.v_max}; v_min must be smaller. "
                "Choose an interval that holds all returns, as in v_min=-100 v_max=0 for rewards of -1 and a discount "
                "of 0.99."
            )


@CRITICS.register("categorical", config=CategoricalConfig)
class CategoricalCritic(TDCritic):
    """TD learning by classification: each value is the mean of a histogram, fitted by cross-entropy.

        p_i(s, a) = softmax of member i's outputs, over bins k of one width on [v_min, v_max]
        Q_i(s, a) = sum_k p_ik center_k
        y = the scalar target of `td`, clipped to [v_min, v_max]
        h_k(y) = Phi((right_k - y) / sigma) - Phi((left_k - y) / sigma), normalised over k
        loss = mean over members and batch of -sum_k h_k(y) log p_ik(s, a)

    with sigma = sigma_ratio * width and Phi the standard normal distribution function. The target's mean is y up to
    1e-5 widths as long as y lies five sigmas inside the support; nearer to an end the Gaussian is cut off and the mean
    moves inwards, by 0.7 widths at the end itself. So the support should reach a few bins beyond the returns.

    The last layer starts at zero: every histogram is uniform, and every value the middle of the support.

    Candidates, members and target network are those of `td`.

    **Paper notation** (arXiv:2403.03950, section 3): m = num_bins, varsigma = width, z_i = center_k.

    Cost: as `td`; the last layer is num_bins wide.
    """

    config: CategoricalConfig
    edges: Tensor

    def __init__(self, config: CategoricalConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim, outputs=config.num_bins)
        for network in (self.online, self.target):
            nn.init.zeros_(network.linears[-1].get_parameter("weight"))
        # Not persistent: the options make it, and a checkpoint holds those.
        self.register_buffer("edges", torch.linspace(config.v_min, config.v_max, config.num_bins + 1), persistent=False)

    _error_formula = "the cross-entropy of p_i(s, a) to the histogram of y"

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """See the base class."""
        return super().metric_formulas(config) | {"target_outside": "share of rows with y outside [v_min, v_max]"}

    def _values(self, outputs: Float[Tensor, "E *batch K"]) -> Float[Tensor, "E *batch"]:
        centers = (self.edges[:-1] + self.edges[1:]) / 2
        return outputs.softmax(dim=-1) @ centers

    def _errors(self, outputs: Float[Tensor, "E B K"], target: Float[Tensor, " B"]) -> Float[Tensor, "E B"]:
        return -(self.project(target) * outputs.log_softmax(dim=-1)).sum(dim=-1)

    def _fit(self, batch: Batch, target: Float[Tensor, " B"]) -> CriticLoss:
        loss, metrics = super()._fit(batch, target)
        outside = (target < self.config.v_min) | (target > self.config.v_max)
        return CriticLoss(loss, metrics | {"target_outside": outside.to(target.dtype).mean()})

    def project(self, target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch K"]:
        """Return the histograms of scalar targets: the masses of a Gaussian around each, cut to the support."""
        config = self.config
        sigma = config.sigma_ratio * (config.v_max - config.v_min) / config.num_bins
        z = (self.edges - target.clamp(config.v_min, config.v_max).unsqueeze(-1)) / sigma
        mass = normal_mass(z[..., :-1], z[..., 1:])
        return mass / mass.sum(dim=-1, keepdim=True)


def normal_mass(low: Float[Tensor, "*batch"], high: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Phi(high) - Phi(low) for low <= high, exact to rounding in both tails."""
    # In the upper half both values are near 1 and would cancel: there the mirrored interval is taken.
    upper = low + high > 0
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    return (torch.erfc(-high / math.sqrt(2)) - torch.erfc(-low / math.sqrt(2))) / 2
