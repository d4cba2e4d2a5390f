"""MeanFlow: one network evaluation carries noise to an action (arXiv:2505.13447; for policies arXiv:2511.13035)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from genpolicy.heads import paths
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.networks.dit import DiTConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class MeanFlowConfig(Options):
    """Hyperparameters of the MeanFlow head; the defaults are those of HiccupRL/MeanFlowQL."""

    backbone: Options = slot("backbone", DiTConfig(), "the network g(features, x_t, t)")
    reformulation: str = option("residual", "what the network predicts; see `genpolicy list reformulations`")
    time_steps: int | None = option(
        None,
        "T: times are drawn from the grid {1/T, ..., 1}; null draws them uniformly from [0, 1)",
        minimum=1,
    )
    noise: Literal["gaussian", "uniform"] = option("gaussian", "law of the noise: N(0, noise_scale^2) or U(-1, 1)")
    noise_scale: float = option(1.0, "standard deviation of Gaussian noise (uniform noise is not scaled)", above=0)
    adaptive_gamma: float = option(0.8, "weight 1 / (error + adaptive_c)^(1 - adaptive_gamma); 1 turns it off")
    adaptive_c: float = option(1e-4, "added to the error inside the adaptive weight", minimum=0)
    target_clip: float | None = option(5.0, "regression targets are clipped to [-c, c]; null leaves them", above=0)
    consistency_weight: float = option(0.0, "weight of the consistency term between two times", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        REFORMULATIONS[self.reformulation]  # refuses an unknown name


class ConsistencyDraws(NamedTuple):
    """Draws of the consistency term: noise (B, A) and two times (B, 1)."""

    noise: Tensor
    t_first: Tensor
    t_second: Tensor


class MeanFlowDraws(NamedTuple):
    """Draws of the MeanFlow loss: noise (B, A), time (B, 1); the consistency term's, if it is on."""

    noise: Tensor
    t: Tensor
    consistency: ConsistencyDraws | tuple[()] = ()


class MeanFlowTerms(NamedTuple):
    """The parts of the MeanFlow regression, each (B, A): what the loss is made of, for tests and figures."""

    x_t: Tensor
    velocity: Tensor
    g: Tensor
    dg_dt: Tensor
    target: Tensor
    """Before clipping, without gradient."""


@HEADS.register("meanflow", config=MeanFlowConfig)
class MeanFlowHead(GenerativeHead):
    """MeanFlow with the interval's lower end fixed at 0: one network evaluation per action.

    With x_t = (1 - t) action + t noise, v = noise - action and the network's output g(features, x_t, t),

        g* = phi + t phi' - v - t dg/dt          (stop-gradient, clipped; `Reformulation.target`)
        D = mean over action dims of (g - g*)^2
        per_sample = w D,   w = clip(1 / (D + c)^(1 - gamma), 1e-6, 1e6)     (stop-gradient)

    where dg/dt is the total derivative along the path, a Jacobian-vector product in the direction (v, 1).
    Sampling: action = `Reformulation.action` of g(features, noise, 1).

    **Paper notation** (arXiv:2511.13035): a = action, e = noise, z_t = x_t, r = 0, b = 0, alpha = bc_weight of the
    policy. Its clock is ours.

    **Reference.** HiccupRL/MeanFlowQL ``agents/meanflowql.py``: mean (not sum) over action dimensions, exponent
    1 - gamma, clamps 1e-12 and [1e-6, 1e6], uniform noise without scale.

    **Deviation.** The consistency term draws its two times like the main term. The reference draws them from the grid
    even when the main time is continuous.

    Cost: training, one forward pass with its tangent and one backward pass (no gradient flows through the tangent);
    acting, one forward pass, with the time embedding computed once for all rows.
    """

    def __init__(self, config: MeanFlowConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.reformulation = REFORMULATIONS[config.reformulation].cls()
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=1, output_dim=action_dim
        )

    def noise(self, n: int, generator: torch.Generator) -> Float[Tensor, "n A"]:
        """Draw noise for n actions."""
        if self.config.noise == "uniform":
            return 2 * torch.rand(n, self.action_dim, generator=generator, device=generator.device) - 1
        return self.config.noise_scale * super().noise(n, generator)

    def draw(self, n: int, generator: torch.Generator) -> MeanFlowDraws:
        """Draw noise and times for n rows."""
        noise, t = self.noise(n, generator), self._draw_time(n, generator)
        if not self.config.consistency_weight:
            return MeanFlowDraws(noise, t)
        pair = ConsistencyDraws(self.noise(n, generator), self._draw_time(n, generator), self._draw_time(n, generator))
        return MeanFlowDraws(noise, t, pair)

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: MeanFlowDraws) -> HeadLoss:
        """Return the adaptively weighted MeanFlow regression; see the class."""
        terms = self.terms(features, action, draws.noise, draws.t)
        target = terms.target
        if self.config.target_clip is not None:
            target = target.clamp(-self.config.target_clip, self.config.target_clip)
        error = (terms.g - target).square().mean(dim=-1).clamp(min=1e-12)
        fit = adaptive_weight(error, gamma=self.config.adaptive_gamma, c=self.config.adaptive_c) * error

        with torch.no_grad():
            avg_velocity = self.reformulation.avg_velocity(terms.g, terms.x_t, draws.noise, draws.t)
            metrics = {
                "mean_flow_loss": fit.mean(),
                "regression_error": error.mean(),
                "velocity_error": (avg_velocity - terms.velocity).square().mean(),
                "dg_dt_norm": terms.dg_dt.square().mean().sqrt(),
            }
        if not self.config.consistency_weight:
            return HeadLoss(fit, fit, metrics)
        consistency = self._consistency(features, action, draws.consistency)
        metrics["consistency_loss"] = consistency.detach().mean()
        return HeadLoss(fit + self.config.consistency_weight * consistency, fit, metrics)

    def terms(
        self,
        features: Float[Tensor, "B F"],
        action: Float[Tensor, "B A"],
        noise: Float[Tensor, "B A"],
        t: Float[Tensor, "B 1"],
    ) -> MeanFlowTerms:
        """Evaluate the network, its total derivative along the path, and the regression target."""
        x_t, velocity, dt_dt = (
            paths.interpolate(action, noise, t),
            paths.velocity(action, noise),
            torch.ones_like(t),
        )
        g, dg_dt, *_ = jvp(lambda x, time: self.backbone(features, x, time), (x_t, t), (velocity, dt_dt))
        dg_dt = dg_dt.detach()  # Stop-gradient: the tangent only serves the target.
        # Stop-gradient: the target is data for the regression.
        target = self.reformulation.target(x_t, noise, t, velocity, dg_dt).detach()
        return MeanFlowTerms(x_t, velocity, g, dg_dt, target)

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with one network evaluation."""
        t = noise.new_full((1,) * noise.ndim, paths.T_NOISE)  # shared by all rows: embedded once
        return self.reformulation.action(self.backbone(features, noise, t), noise, t)

    def _consistency(
        self, features: Tensor, action: Tensor, draws: ConsistencyDraws | tuple[()]
    ) -> Float[Tensor, " B"]:
        """Squared distance between the actions that two times of one path point to (the second is the target)."""
        assert isinstance(draws, ConsistencyDraws)

        def jump_to_action(t: Tensor) -> Tensor:
            x_t = paths.interpolate(action, draws.noise, t)
            g = self.backbone(features, x_t, t)
            return x_t - t * self.reformulation.avg_velocity(g, x_t, draws.noise, t)

        with torch.no_grad():  # Stop-gradient: the second action is the target of the first.
            second = jump_to_action(draws.t_second)
        return (jump_to_action(draws.t_first) - second).square().mean(dim=-1)

    def _draw_time(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 1"]:
        if self.config.time_steps is None:
            return torch.rand(n, 1, generator=generator, device=generator.device)
        index = torch.randint(self.config.time_steps, (n, 1), generator=generator, device=generator.device)
        return (index + 1) / self.config.time_steps


def adaptive_weight(error: Float[Tensor, " B"], *, gamma: float, c: float) -> Float[Tensor, " B"]:
    """Return clip(1 / (error + c)^(1 - gamma), 1e-6, 1e6) without gradient (arXiv:2505.13447, equation 22)."""
    power = (error.detach() + c).pow(1.0 - gamma).clamp(min=1e-12)
    return power.reciprocal().clamp(1e-6, 1e6)
