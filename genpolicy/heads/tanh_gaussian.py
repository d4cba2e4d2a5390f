"""The tanh-Gaussian head: a Gaussian squashed into the action box, the policy of SAC (arXiv:1812.05905)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genpolicy.heads.action_transforms import Tanh
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.gaussian import GaussianConfig, GaussianHead
from genpolicy.options import option
from genpolicy.registry import HEADS


@dataclass(frozen=True)
class TanhGaussianConfig(GaussianConfig):
    """Hyperparameters of the tanh-Gaussian head: those of the Gaussian before squashing, and a margin."""

    action_margin: float = option(
        1e-6, "dataset actions are drawn in by this much, as +-1 lies at infinity", minimum=1e-7, below=1
    )


@HEADS.register("tanh_gaussian", config=TanhGaussianConfig)
class TanhGaussianHead(GenerativeHead):
    """Squashed Gaussian: action = tanh(y), y = mean(features) + std(features) * noise, inside the action box.

        log p(action) = log N(y; mean, std^2) - sum over action dims of log(1 - tanh(y)^2)
        log(1 - tanh(y)^2) = 2 (ln 2 - y - softplus(-2 y))
        per_sample = -log p(action)

    The density of a sample is made of its own y (`sample_with_log_prob`): exact, also where tanh rounds to 1. The
    density of a given action needs y = artanh(action), which is infinite at +-1. There actions are drawn in to
    [-1 + margin, 1 - margin] first, so a saturated coordinate counts as y = 7.25 with the default margin, and its
    likelihood is that of a point, not of the tail beyond. A larger `action_margin` lessens its pull on the fit.

    The mode of y, not of the action, is the sample of zero noise: tanh(mean), at `temperature=0` when acting.

    **Paper notation** (arXiv:1812.05905, appendix C): u = y, mu = the law of y, a = action, epsilon = noise. No flow
    time takes part.

    **Reference.** seohongpark/fql ``agents/sac.py``, ``utils/networks.py``: the form of the correction, which is also
    that of TensorFlow Probability and of ``torch.distributions.TanhTransform``. Densities of dataset actions take no
    part there.

    Cost: one network evaluation to train and to act.
    """

    unimodal = True

    config: TanhGaussianConfig

    @classmethod
    def metric_formulas(cls, config: TanhGaussianConfig) -> dict[str, str]:
        """See the base class."""
        return {"nll": "mean over batch of -log p(action), in nats"}

    def __init__(self, config: TanhGaussianConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.gaussian = GaussianHead(config, feature_dim=feature_dim, action_dim=action_dim)
        self.squash = Tanh(config.action_margin)

    def log_prob(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch"]:
        """Return the log density of actions in [-1, 1], drawn in by the margin: (\\*batch,), in nats."""
        y = self.squash.to_latent(action)
        return self.gaussian.log_prob(features, y) - log_slope(y)

    def sample_with_log_prob(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
        """Return tanh(mean + std * noise), (\\*batch, A), and its log density, (\\*batch,), in nats."""
        y, log_prob = self.gaussian.sample_with_log_prob(features, noise)
        return self.squash.to_action(y), log_prob - log_slope(y)

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
        """Return tanh(mean + std * noise)."""
        return self.squash.to_action(self.gaussian.sample(features, noise))


def log_slope(y: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
    """Return log(1 - tanh(y)^2) summed over action dims, without cancellation at large |y|."""
    return 2 * (math.log(2) - y - functional.softplus(-2 * y)).sum(dim=-1)
