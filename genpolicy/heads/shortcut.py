"""Shortcut models: one velocity network for steps of every size (arXiv:2410.12557; as a policy arXiv:2505.22866)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads import paths
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class ShortcutConfig(Options):
    """Hyperparameters of the shortcut head; the defaults are those of SORL."""

    backbone: Options = slot("backbone", MLPConfig(), "the network s(features, x_t, t, step size)")
    finest_steps: int = option(8, "M, a power of two: the smallest step, fitted by flow matching, is 1 / M", minimum=2)
    sampling_steps: int = option(1, "network evaluations per action, a power of two up to finest_steps", minimum=1)
    consistency_weight: float = option(1.0, "weight of the self-consistency term beside flow matching", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("finest_steps", "sampling_steps"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ConfigError(
                    f"ShortcutConfig.{name} is {value}; it must be a power of two, as each step size is twice the one "
                    f"before. Set it to {2 ** math.floor(math.log2(value))} or {2 ** math.ceil(math.log2(value))}."
                )
        if self.sampling_steps > self.finest_steps:
            raise ConfigError(
                f"ShortcutConfig.sampling_steps is {self.sampling_steps}, more than finest_steps "
                f"({self.finest_steps}), and the network knows no smaller step. Lower the first or raise the second."
            )


class ShortcutDraws(NamedTuple):
    """Draws of the shortcut loss, for its two terms.

    `noise` (B, A) and `t` (B, 1) belong to flow matching; `consistency_noise` (B, A), `consistency_t` (B, 1) and
    `size` (B, 1), the size 2d of the step that is compared with two steps of size d, to self-consistency.
    """

    noise: Tensor
    t: Tensor
    consistency_noise: Tensor
    consistency_t: Tensor
    size: Tensor


@HEADS.register("shortcut", config=ShortcutConfig)
class ShortcutHead(GenerativeHead):
    """Shortcut model: the velocity of steps of size 1/M is fitted to data, that of larger ones to pairs of steps.

    The network s(features, x_t, t, d) is the average velocity over [t - d, t], so that a step is
    x_{t-d} = x_t - d s(features, x_t, t, d). With the sizes d = 1/M, 2/M, 4/M, ..., 1 and v = noise - action,

        flow matching     F = mean over action dims of (s(x_t, t, 1/M) - v)^2,   t from {1/M, 2/M, ..., 1}
        self-consistency  C = mean over action dims of (s(x_t, t, 2d) - target)^2
                          target = (s(x_t, t, d) + s(x_t - d s(x_t, t, d), t - d, d)) / 2     (stop-gradient)
                          2d from {2/M, 4/M, ..., 1}, then t from {2d, 4d, ..., 1}, each value alike
        per_sample = F + consistency_weight C

    Every row takes part in both terms, with noise and time of its own for each. The times are those that sampling
    visits: x_{t-d} = x_t - d s on the uniform grid of `sampling_steps` steps of size d from 1 to 0. One trained
    network samples with any power of two of steps up to M.

    The step size enters the network as log(d M) / log M: 0 for the smallest step, 1 for d = 1, even between them.

    **Paper notation** (arXiv:2410.12557, section 3): x_1 = action, x_0 = noise, its t = our 1 - t and its s = -s; it
    writes 0 for the smallest step size. M is `denoise_timesteps` in the code of arXiv:2505.22866.

    **Reference.** nico-espinosadice/SORL ``agents/sorl.py`` (in the copy of ruio248/AM-MF): both terms on the whole
    batch, each with coefficient 10 (consistency_weight = 1, and 10 a part of bc_weight). arXiv:2410.12557 gives one
    term to 3/4 and the other to 1/4 of the rows, which in expectation is consistency_weight = 1/3, and takes M = 128.
    Deviations: the target is the network itself without gradient, not its moving average; sizes are drawn for each
    row, not dealt out in equal groups over the batch; the path ends at the action, without 1e-5 times the noise.

    Cost: training, four forward passes (two without gradient) and one backward pass; acting, `sampling_steps` forward
    passes.
    """

    config: ShortcutConfig

    @classmethod
    def metric_formulas(cls, config: ShortcutConfig) -> dict[str, str]:
        """See the base class."""
        return {
            "flow_matching_loss": "mean over batch and action dims of (s(x_t, t, 1/M) - (noise - action))^2",
            "consistency_loss": "mean over batch and action dims of (s(x_t, t, 2d) - mean of two steps of size d)^2",
        }

    def __init__(self, config: ShortcutConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.sampling_steps
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=2, output_dim=action_dim
        )

    def draw(self, n: int, generator: torch.Generator) -> ShortcutDraws:
        """Draw noise, times and step sizes for n rows."""
        device, finest = generator.device, self.config.finest_steps
        noise, consistency_noise = self.noise(n, generator), self.noise(n, generator)
        t = (torch.randint(finest, (n, 1), generator=generator, device=device) + 1) / finest
        doublings = torch.randint(1, finest.bit_length(), (n, 1), generator=generator, device=device)
        size = torch.exp2(doublings) / finest
        place = (torch.rand(n, 1, generator=generator, device=device) / size).floor()
        return ShortcutDraws(noise, t, consistency_noise, (place + 1) * size, size)

    def avg_velocity(
        self,
        features: Float[Tensor, "*batch F"],
        x_t: Float[Tensor, "*batch A"],
        t: Float[Tensor, "*#batch 1"],
        size: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch A"]:
        """Return s, the average velocity over [t - size, t].

        Args:
            features: (\\*batch, F).
            x_t: (\\*batch, A).
            t: (\\*batch, 1), a multiple of size in [size, 1].
            size: (\\*batch, 1), from {1/M, 2/M, 4/M, ..., 1}.
        """
        coarseness = 1 + torch.log2(size) / math.log2(self.config.finest_steps)
        return self.backbone(features, x_t, t, coarseness)

    def jump(
        self,
        features: Float[Tensor, "*batch F"],
        x_t: Float[Tensor, "*batch A"],
        t: Float[Tensor, "*#batch 1"],
        size: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch A"]:
        """Carry points of the flow from time t to t - size: x_t - size s; arguments as in `avg_velocity`."""
        return x_t - size * self.avg_velocity(features, x_t, t, size)

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: ShortcutDraws) -> HeadLoss:
        """Return flow matching plus weighted self-consistency; see the class."""
        flow_matching = self._flow_matching(features, action, draws)
        consistency = self._consistency(features, action, draws)
        metrics = {
            "flow_matching_loss": flow_matching.detach().mean(),
            "consistency_loss": consistency.detach().mean(),
        }
        return HeadLoss(flow_matching + self.config.consistency_weight * consistency, flow_matching, metrics)

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with `steps` network evaluations."""
        # Times of one element are shared by all rows: embedded once.
        size = noise.new_full((1,) * noise.ndim, 1 / self.steps)
        x_t = noise
        for left in range(self.steps, 0, -1):
            x_t = self.jump(features, x_t, left * size, size)
        return x_t

    def _flow_matching(self, features: Tensor, action: Tensor, draws: ShortcutDraws) -> Float[Tensor, " B"]:
        x_t = paths.interpolate(action, draws.noise, draws.t)
        finest = torch.full_like(draws.t, 1 / self.config.finest_steps)
        error = self.avg_velocity(features, x_t, draws.t, finest) - paths.velocity(action, draws.noise)
        return error.square().mean(dim=-1)

    def _consistency(self, features: Tensor, action: Tensor, draws: ShortcutDraws) -> Float[Tensor, " B"]:
        t, half = draws.consistency_t, draws.size / 2
        x_t = paths.interpolate(action, draws.consistency_noise, t)
        with torch.no_grad():  # Stop-gradient: two steps are the target of one, not the other way round.
            first = self.avg_velocity(features, x_t, t, half)
            second = self.avg_velocity(features, x_t - half * first, t - half, half)
        error = self.avg_velocity(features, x_t, t, draws.size) - (first + second) / 2
        return error.square().mean(dim=-1)
