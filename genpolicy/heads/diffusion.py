"""Diffusion (DDPM) as a policy: a chain of denoising steps carries noise to an action (arXiv:2208.06193)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.noise_schedules import (
    LINEAR_MIN_STEPS,
    alpha_bars,
    diffuse,
    predicted_action,
    prediction_target,
    reverse_steps,
)
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class DiffusionConfig(Options):
    """Hyperparameters of the diffusion head; the defaults are those of Diffusion-QL."""

    backbone: Options = slot("backbone", MLPConfig(), "the network of (features, x_t, t)")
    diffusion_steps: int = option(5, "K, steps between an action and noise", minimum=1)
    schedule: Literal["vp", "linear", "cosine"] = option("vp", "how fast the steps destroy the action")
    prediction: Literal["noise", "action", "v"] = option("noise", "what the network predicts (papers: epsilon, x_0, v)")
    sampler: Literal["ancestral", "ddim"] = option(
        "ancestral", "with new noise at each step (DDPM), or deterministic from the first one (DDIM)"
    )
    sampling_steps: int | None = option(
        None, "network evaluations per action, evenly spread over the K steps; null: K", minimum=1
    )
    clip_action: bool = option(True, "clip the predicted action to [-1, 1] at each step of the chain")
    gradient_steps: int | None = option(
        None, "last steps of the chain through which gradients of a sample flow; null: all", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "linear" and self.diffusion_steps < LINEAR_MIN_STEPS:
            raise ConfigError(
                f"DiffusionConfig.diffusion_steps is {self.diffusion_steps}; with schedule=linear it must be at least "
                f"{LINEAR_MIN_STEPS}, as fewer steps cannot end at noise. Raise it, or set schedule=vp."
            )
        if self.sampling_steps is not None and self.sampling_steps > self.diffusion_steps:
            raise ConfigError(
                f"DiffusionConfig.sampling_steps is {self.sampling_steps}; it must be at most diffusion_steps "
                f"({self.diffusion_steps}). Lower it, or set sampling_steps=null for all of them."
            )


class DiffusionDraws(NamedTuple):
    """Draws of the diffusion loss: noise (B, A) and step index k (B, 1), integers in 1 .. K."""

    noise: Tensor
    k: Tensor


@HEADS.register("diffusion", config=DiffusionConfig)
class DiffusionHead(GenerativeHead):
    """Diffusion: K denoising steps carry noise to an action; the network learns what x_t is made of.

        x_t = signal_k action + spread_k noise,   t = k / K,   k uniform in 1 .. K
        per_sample = mean over action dims of (network(features, x_t, t) - target)^2
        target = noise,  action,  or  v = signal_k noise - spread_k action

    Sampling starts at x = noise and steps from k to j < k, with the action that the network's output stands for
    (clipped to [-1, 1] with `clip_action`) and the noise that x_t then contains,

        x_j = signal_j action + sqrt(spread_j^2 - sigma^2) (x_k - signal_k action) / spread_k + sigma z

    where sigma^2 is the variance of the posterior of x_j (`ancestral`) or 0 (`ddim`). The last step, to j = 0, adds
    no noise and returns the predicted action. An ancestral sample needs `sampling_steps` noise vectors, the start and
    one z for each step but the last, so its noise has the shape (sampling_steps, A); DDIM needs the start, (A,).

    Few steps make samples too alike: with exact predictions of Gaussian data of deviation 0.3, the five default steps
    give 0.14, forty 0.26. Raise `diffusion_steps` where modes matter more than speed.

    With `clip_action` samples lie in the bounds: a policy's bound penalty is 0, and where the clip acts in the last
    step no gradient passes. With `gradient_steps` = n, gradients reach the last n network evaluations only, and the
    earlier ones are constants.

    **Paper notation** (arXiv:2006.11239, arXiv:2208.06193): x_0 or a^0 = action, epsilon = noise, step t or i = k,
    T or N = K, alpha_bar_k = signal_k^2, x_0-prediction = `action`, v of arXiv:2202.00512 (its alpha, sigma = signal,
    spread). The clock is ours, t = k / K is what the backbone is given, but the path has coefficients of its own,
    signal and spread (`genpolicy.heads.noise_schedules`): here t is not the share of noise but orders it.

    **Reference.** Zhendong-Wang/Diffusion-Policies-for-Offline-RL ``agents/diffusion.py``: vp schedule, K = 5, noise
    prediction, posterior variance, predicted actions clipped at each step, loss averaged over action dims. Deviations:
    its linear schedule is not scaled to K, and its network is given the index k - 1 instead of k / K.

    Cost: training, one forward and one backward pass; acting, `sampling_steps` forward passes; a gradient through a
    sample, the backward passes of the last `gradient_steps` of them.
    """

    config: DiffusionConfig
    signal: Tensor
    spread: Tensor

    @classmethod
    def metric_formulas(cls, config: DiffusionConfig) -> dict[str, str]:
        """See the base class."""
        return {"diffusion_loss": f"mean over batch and action dims of (network(x_t, t) - {config.prediction})^2"}

    def __init__(self, config: DiffusionConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.sampling_steps or config.diffusion_steps
        alpha_bar = alpha_bars(config.schedule, config.diffusion_steps)
        self.chain = reverse_steps(alpha_bar, self.steps, ancestral=config.sampler == "ancestral")
        self.register_buffer("signal", torch.tensor([a**0.5 for a in alpha_bar]), persistent=False)
        self.register_buffer("spread", torch.tensor([(1 - a) ** 0.5 for a in alpha_bar]), persistent=False)
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=1, output_dim=action_dim
        )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(sampling_steps, A) for ancestral sampling, (A,) for DDIM."""
        return (self.steps, self.action_dim) if self.config.sampler == "ancestral" else (self.action_dim,)

    def draw(self, n: int, generator: torch.Generator) -> DiffusionDraws:
        """Draw noise and step indices for n rows."""
        noise = torch.randn(n, self.action_dim, generator=generator, device=generator.device)
        k = torch.randint(1, self.config.diffusion_steps + 1, (n, 1), generator=generator, device=generator.device)
        return DiffusionDraws(noise, k)

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: DiffusionDraws) -> HeadLoss:
        """Return the squared error of the predicted quantity, averaged over action dims."""
        prediction, (noise, k) = self.config.prediction, draws
        signal, spread = self.signal[k], self.spread[k]
        x_t = diffuse(action, noise, signal, spread)
        output = self.backbone(features, x_t, self._time(k, action))
        target = prediction_target(prediction, action, noise, signal, spread)
        error = (output - target).square().mean(dim=-1)
        return HeadLoss(error, error, {"diffusion_loss": error.detach().mean()})

    def sample(self, features: Float[Tensor, "*batch F"], noise: Tensor) -> Float[Tensor, "*batch A"]:
        """Generate actions with `steps` network evaluations; see the class for the shape of the noise."""
        ancestral = self.config.sampler == "ancestral"
        x = noise[..., 0, :] if ancestral else noise
        fresh = noise.unbind(dim=-2)[1:] if ancestral else ()
        free = 0 if self.config.gradient_steps is None else max(self.steps - self.config.gradient_steps, 0)
        with torch.no_grad():  # Truncated backpropagation: the first steps are constants.
            for i in range(free):
                x = self._step(features, x, i, fresh)
        for i in range(free, self.steps):
            x = self._step(features, x, i, fresh)
        return x

    def _step(self, features: Tensor, x_t: Tensor, i: int, fresh: tuple[Tensor, ...]) -> Tensor:
        step = self.chain[i]
        # A time of one element is shared by all rows: embedded once.
        output = self.backbone(features, x_t, x_t.new_full((1,) * x_t.ndim, step.t))
        action = predicted_action(self.config.prediction, output, x_t, step.signal, step.spread)
        if self.config.clip_action:
            action = action.clamp(-1, 1)
        if i == self.steps - 1:
            return action
        noise = (x_t - step.signal * action) / step.spread
        x_next = step.next_signal * action + step.next_spread * noise
        return x_next + step.sigma * fresh[i] if fresh else x_next

    def _time(self, k: Int[Tensor, "B 1"], like: Tensor) -> Float[Tensor, "B 1"]:
        return k.to(like.dtype) / self.config.diffusion_steps
