"""Consistency models as a policy: one network evaluation denoises any amount of noise (arXiv:2309.16984)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads import paths
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS

PSEUDO_HUBER = 0.00054
"""c / sqrt(A) of the pseudo-Huber distance (arXiv:2310.14189)."""


@dataclass(frozen=True)
class ConsistencyConfig(Options):
    """Hyperparameters of the consistency head; the defaults are those of Consistency-AC."""

    backbone: Options = slot("backbone", MLPConfig(), "the network of (features, x_t, t)")
    sampling_steps: int = option(2, "network evaluations per action", minimum=1)
    last_sampling_sigma: float = option(
        2.0, "noise level of the last evaluation; the levels before it are evenly spaced up to sigma_max", above=0
    )
    sigma_min: float = option(0.002, "smallest noise level, where the action is read off", above=0)
    sigma_max: float = option(80.0, "largest noise level, where samples start", above=0)
    rho: float = option(7.0, "how strongly noise levels crowd at small sigma", above=0)
    sigma_data: float = option(0.5, "assumed standard deviation of actions in the skip connection", above=0)
    initial_levels: int = option(2, "number of noise levels at the start of training", minimum=2)
    final_levels: int = option(150, "number of noise levels at its end", minimum=2)
    level_growth: Literal["sqrt", "doubling"] = option(
        "sqrt", "how the number of levels grows: as the root of the share of training, or doubling in equal stages"
    )
    level_law: Literal["uniform", "lognormal"] = option(
        "uniform", "law of the noise level: every level alike, or ln sigma from N(-1.1, 2.0^2)"
    )
    distance: Literal["squared", "pseudo_huber"] = option("squared", "distance between the two predicted actions")
    weighting: Literal["uniform", "inverse_step"] = option(
        "inverse_step", "weight of a row: 1, or 1 / difference of its two noise levels"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma_min < self.last_sampling_sigma <= self.sigma_max:
            raise ConfigError(
                f"ConsistencyConfig.last_sampling_sigma is {self.last_sampling_sigma}; it must be above sigma_min "
                f"({self.sigma_min}) and at most sigma_max ({self.sigma_max})."
            )
        if self.initial_levels > self.final_levels:
            raise ConfigError(
                f"ConsistencyConfig.initial_levels is {self.initial_levels}, more than final_levels "
                f"({self.final_levels}); the number of levels grows. Lower the first or raise the last."
            )


class ConsistencyDraws(NamedTuple):
    """Draws of the consistency loss: noise (B, A) and two neighbouring times (B, 1), r < t."""

    noise: Tensor
    r: Tensor
    t: Tensor


@HEADS.register("consistency", config=ConsistencyConfig)
class ConsistencyHead(GenerativeHead):
    """Consistency model: f(x_t, t) jumps from any time to the action, trained to agree with itself at the next time.

    With the noise level sigma = t / (1 - t), the ratio of noise to action, and x = action + sigma noise =
    x_t (1 + sigma):

        f(features, x_t, t) = c_skip x + c_out network(features, x_t, t)
        c_skip = sigma_data^2 / ((sigma - sigma_min)^2 + sigma_data^2)
        c_out = sigma_data (sigma - sigma_min) / sqrt(sigma^2 + sigma_data^2)

    so that f is the identity at sigma_min. With N noise levels from sigma_min to sigma_max,

        sigma_i = (sigma_min^(1/rho) + (i - 1) / (N - 1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho,   i = 1 .. N
        per_sample = weight * distance(f(x_t, t), stop-gradient f(x_r, r)),   (r, t) the times of (sigma_i, sigma_i+1)
        distance = mean over action dims of d^2,   or   sqrt(sum of d^2 + c^2) - c,   c = 0.00054 sqrt(A)

    where x_t and x_r share action and noise. The number of levels grows in training from s_0 to s_1:
    N = ceil(sqrt(progress (s_1^2 - s_0^2) + s_0^2) - 1) + 1, or min(s_0 2^stage, s_1) + 1 over equal stages; the draws
    hold the outcome. This is consistency *training*, from data alone, without a teacher model: the target is the same
    network without gradient, as arXiv:2310.14189 finds better than a moving average. That paper's other choices are
    level_growth=doubling (10 to 1280), level_law=lognormal, distance=pseudo_huber and weighting=inverse_step.

    Sampling: x = sigma_max noise, action = f(x); each further step adds noise to the action again, up to a lower
    level, x = action + sqrt(sigma^2 - sigma_min^2) noise, and jumps again. An action needs `sampling_steps` noise
    vectors, shape (sampling_steps, A).

    **Paper notation** (arXiv:2303.01469): its t = our sigma, epsilon and T = sigma_min and sigma_max, z = noise,
    x_t = x. Its path has exploding variance; divided by 1 + sigma it is our straight path, x_t = x / (1 + sigma) =
    (1 - t) action + t noise with t = sigma / (1 + sigma), so that the network sees inputs of bounded size. t itself is
    the time it is given, instead of ln sigma / 4: t lies in [0, 1] as backbones expect, resolves the levels around 1
    where actions take shape, and hardly changes only where c_out is small or x_t is nearly pure noise.

    **Reference.** quantumiracle/Consistency_Model_For_Reinforcement_Learning ``agents/consistency.py`` and
    ``agents/ql_consistency.py`` (Consistency-AC): levels, skip connection, growth and sampling levels, evenly spaced
    from 80 to 2. Deviations: its target is a moving average of the network (its own switch ``improved_CT`` uses the
    network itself, as here); its network sees x and sigma unscaled; its growth starts anew at every evaluation, here
    it runs once over training; its weight is 100 times `inverse_step` (the 100 is a part of bc_weight here); its
    pseudo-Huber distance is taken in each action dim.

    Cost: training, two forward passes and one backward pass; acting, `sampling_steps` forward passes.
    """

    config: ConsistencyConfig

    @classmethod
    def metric_formulas(cls, config: ConsistencyConfig) -> dict[str, str]:
        """See the base class."""
        return {
            "consistency_loss": "mean over batch of weight * distance(f(x_t, t), f(x_r, r))",
            "consistency_error": "mean over batch and action dims of (f(x_t, t) - f(x_r, r))^2",
        }

    def __init__(self, config: ConsistencyConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.sampling_steps
        top, last = config.sigma_max, config.last_sampling_sigma
        self.sampling_sigmas = [top - (top - last) * i / max(self.steps - 1, 1) for i in range(self.steps)]
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=1, output_dim=action_dim
        )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(sampling_steps, A)."""
        return (self.steps, self.action_dim)

    def levels(self, progress: float) -> int:
        """Return N, the number of noise levels at a share `progress` of training."""
        first, last = self.config.initial_levels, self.config.final_levels
        progress = min(max(progress, 0.0), 1.0)
        if self.config.level_growth == "sqrt":
            return math.ceil(math.sqrt(progress * (last**2 - first**2) + first**2) - 1) + 1
        stages = math.floor(math.log2(last // first)) + 1
        return min(first * 2 ** math.floor(progress * stages), last) + 1

    def sigmas(self, levels: int) -> list[float]:
        """Return the noise levels sigma_1 = sigma_min .. sigma_N = sigma_max."""
        low, high = (sigma ** (1 / self.config.rho) for sigma in (self.config.sigma_min, self.config.sigma_max))
        return [(low + i / (levels - 1) * (high - low)) ** self.config.rho for i in range(levels)]

    def draw(self, n: int, generator: torch.Generator) -> ConsistencyDraws:
        """Draw noise and neighbouring times for n rows, with the final number of levels."""
        return self.draw_at(1.0, n, generator)

    def draw_at(self, progress: float, n: int, generator: torch.Generator) -> ConsistencyDraws:
        """Draw noise and neighbouring times for n rows, at a share `progress` of training."""
        device = generator.device
        sigmas = self.sigmas(self.levels(progress))
        noise = torch.randn(n, self.action_dim, generator=generator, device=device)
        if self.config.level_law == "uniform":
            i = torch.randint(len(sigmas) - 1, (n, 1), generator=generator, device=device)
        else:
            shares = torch.tensor(_lognormal_shares(sigmas), device=device)
            i = torch.multinomial(shares, n, replacement=True, generator=generator)[:, None]
        times = torch.tensor([_time(sigma) for sigma in sigmas], device=device)
        return ConsistencyDraws(noise, times[i], times[i + 1])

    def jump(
        self, features: Float[Tensor, "*batch F"], x_t: Float[Tensor, "*batch A"], t: Float[Tensor, "*#batch 1"]
    ) -> Float[Tensor, "*batch A"]:
        """Return f(features, x_t, t), the action that points of the path at time t lead to.

        Args:
            features: (\\*batch, F).
            x_t: (\\*batch, A), (1 - t) action + t noise.
            t: (\\*batch, 1), between the times of sigma_min and sigma_max.
        """
        sigma_min, sigma_data = self.config.sigma_min, self.config.sigma_data
        sigma = t / (1 - t)
        c_skip = sigma_data**2 / ((sigma - sigma_min).square() + sigma_data**2)
        c_out = sigma_data * (sigma - sigma_min) / (sigma.square() + sigma_data**2).sqrt()
        return c_skip * x_t / (1 - t) + c_out * self.backbone(features, x_t, t)

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: ConsistencyDraws) -> HeadLoss:
        """Return the weighted distance between the actions that two neighbouring times point to."""
        noise, r, t = draws
        with torch.no_grad():  # Stop-gradient: the action from the lower level is the target of the higher one's.
            target = self.jump(features, paths.interpolate(action, noise, r), r)
        difference = self.jump(features, paths.interpolate(action, noise, t), t) - target
        squared = difference.square()
        if self.config.distance == "squared":
            distance = squared.mean(dim=-1)
        else:
            c = PSEUDO_HUBER * math.sqrt(self.action_dim)
            distance = (squared.sum(dim=-1) + c**2).sqrt() - c
        error = distance
        if self.config.weighting == "inverse_step":
            error = distance / (t / (1 - t) - r / (1 - r)).squeeze(-1)
        metrics = {"consistency_loss": error.detach().mean(), "consistency_error": squared.detach().mean()}
        return HeadLoss(error, error, metrics)

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch K A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with `steps` jumps; see the class."""
        fresh = noise.unbind(dim=-2)
        x, action = self.config.sigma_max * fresh[0], None
        for sigma, z in zip(self.sampling_sigmas, fresh, strict=True):
            if action is not None:
                x = action + math.sqrt(sigma**2 - self.config.sigma_min**2) * z
            # A time of one element is shared by all rows: embedded once.
            t = x.new_full((1,) * x.ndim, _time(sigma))
            action = self.jump(features, (1 - t) * x, t)
        assert action is not None
        return action


def _time(sigma: float) -> float:
    """The time at which noise and action have the ratio sigma."""
    return sigma / (1 + sigma)


def _lognormal_shares(sigmas: list[float], mean: float = -1.1, std: float = 2.0) -> list[float]:
    """Probability of each pair of neighbouring levels, up to a factor: that ln sigma ~ N(mean, std^2) falls between."""
    cumulative = [math.erf((math.log(sigma) - mean) / (std * math.sqrt(2))) for sigma in sigmas]
    return [high - low for low, high in pairwise(cumulative)]
