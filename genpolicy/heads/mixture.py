"""The mixture head: several Gaussians with weights, all given by one network (a mixture density network)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.gaussian import LogStdConfig, normal_log_prob
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class MixtureConfig(LogStdConfig):
    """Hyperparameters of the mixture head."""

    backbone: Options = slot("backbone", MLPConfig(), "the network of the features that gives all components")
    components: int = option(5, "K, number of Gaussians", minimum=2)


class Mixture(NamedTuple):
    """A mixture of K diagonal Gaussians for every row."""

    log_weights: Float[Tensor, "*batch K"]
    """Normalised."""
    mean: Float[Tensor, "*batch K A"]
    log_std: Float[Tensor, "*batch K A"]

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Return log of the sum over components of weight * density, in nats."""
        z = (rearrange(action, "... a -> ... 1 a") - self.mean) * torch.exp(-self.log_std)
        return torch.logsumexp(self.log_weights + normal_log_prob(z, self.log_std), dim=-1)

    def choose(self, normal: Float[Tensor, "*batch 1"]) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each (\\*batch, A), of the component that a normal number picks."""
        weights = self.log_weights.detach().exp()  # a choice has no gradient
        upper = weights.cumsum(dim=-1)
        heaviest = weights.argmax(dim=-1, keepdim=True)
        middle = upper.gather(-1, heaviest) - 0.5 * weights.gather(-1, heaviest)
        uniform = (torch.special.ndtr(normal) - 0.5 + middle).remainder(1.0)
        index = (uniform >= upper[..., :-1]).sum(dim=-1)
        index = rearrange(index, "... -> ... 1 1").expand(*index.shape, 1, self.mean.shape[-1])
        return self.mean.gather(-2, index).squeeze(-2), self.log_std.gather(-2, index).squeeze(-2)


@HEADS.register("mixture", config=MixtureConfig)
class MixtureHead(GenerativeHead):
    """Mixture of K diagonal Gaussians, with weights, means and standard deviations from one network.

        p(action) = sum over k of weight_k N(action; mean_k, std_k^2),   weight = softmax(logits)
        per_sample = -log p(action)

    A sample needs A + 1 normal numbers: with z the first A of them and u = Phi(last) uniform,

        action = mean_k + std_k * z,   k the component whose interval of the cumulated weights holds u + shift (mod 1)

    where the shift moves the middle of the heaviest component's interval to u = 1/2. A shift leaves u uniform; with it
    zero noise (`temperature=0` when acting) gives the mean of the heaviest component, and a temperature below 1
    prefers that component. Gradients through a sample reach the chosen component's mean and standard deviation and
    never the weights, so that it is not `pathwise`; log densities have all gradients.

    **Initialisation.** Components that start alike get the same gradient and stay alike. So constants are added to
    the network's output: in each action dim the means start at the K points (2 i + 1) / K - 1, i = 0 .. K - 1, in an
    order drawn at random for each dim, and the standard deviations at 1 / K, half the distance of neighbours
    (exactly there with `backbone.output_init_scale=0`). The constants are not learned; the network's own bias is.

    **Paper notation** (Bishop, Mixture Density Networks, 1994, equations 22 to 29): alpha_i = weight_k, mu_i = mean_k,
    sigma_i = std_k (one for each action dim here), phi_i = the density of component k. No flow time takes part.

    Cost: one network evaluation to train and to act.
    """

    pathwise = False

    config: MixtureConfig
    start: Tensor

    @classmethod
    def metric_formulas(cls, config: MixtureConfig) -> dict[str, str]:
        """See the base class."""
        return {
            "nll": "mean over batch of -log sum_k weight_k N(action; mean_k, std_k^2), in nats",
            "weight_entropy": "mean over batch of -sum_k weight_k log weight_k, in nats",
        }

    def __init__(self, config: MixtureConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        k = config.components
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=0, num_times=0, output_dim=k * (2 * action_dim + 1)
        )
        order = torch.stack([torch.randperm(k) for _ in range(action_dim)], dim=-1)
        mean, log_std = (2 * order + 1) / k - 1, torch.full((k, action_dim), -math.log(k))
        self.register_buffer("start", torch.cat([torch.zeros(k, 1), mean, log_std], dim=-1))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(A + 1,): the last number chooses the component."""
        return (self.action_dim + 1,)

    def distribution(self, features: Float[Tensor, "*batch F"]) -> Mixture:
        """Return the mixture of each row."""
        output = rearrange(self.backbone(features), "... (k y) -> ... k y", k=self.config.components) + self.start
        logits, mean, log_std = output.split([1, self.action_dim, self.action_dim], dim=-1)
        log_std = log_std.clamp(self.config.log_std_min, self.config.log_std_max)
        return Mixture(torch.log_softmax(logits.squeeze(-1), dim=-1), mean, log_std)

    def log_prob(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch"]:
        """Return the log density of actions: (\\*batch,), in nats."""
        return self.distribution(features).log_prob(action)

    def sample_with_log_prob(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A1"]
    ) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
        """Return what `sample` returns, and its log density by the whole mixture, (\\*batch,), in nats."""
        mixture = self.distribution(features)
        action = _sample(mixture, noise)
        return action, mixture.log_prob(action)

    def draw(self, n: int, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the likelihood needs no random numbers."""
        return ()

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: tuple[()]) -> HeadLoss:
        """Return the negative log-likelihood of each row, in nats."""
        mixture = self.distribution(features)
        nll = -mixture.log_prob(action)
        log_weights = mixture.log_weights.detach()
        entropy = -(log_weights.exp() * log_weights).sum(dim=-1)
        return HeadLoss(nll, nll, {"nll": nll.detach().mean(), "weight_entropy": entropy.mean()})

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A1"]
    ) -> Float[Tensor, "*batch A"]:
        """Return an action of the component that the last number of the noise picks; see the class."""
        return _sample(self.distribution(features), noise)


def _sample(mixture: Mixture, noise: Tensor) -> Tensor:
    mean, log_std = mixture.choose(noise[..., -1:])
    return mean + torch.exp(log_std) * noise[..., :-1]
