"""MeanFlow: one network evaluation carries noise to an action (arXiv:2505.13447; for policies arXiv:2511.13035)."""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads import paths
from genpolicy.heads.action_transforms import make_action_transform
from genpolicy.heads.adaptive import adaptive_weight
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.meanflow_config import MeanFlowConfig
from genpolicy.heads.objectives import OBJECTIVES, Field, Interval
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.heads.time_sampling import TimeSampler, check_times
from genpolicy.registry import BACKBONES, HEADS


class ConsistencyDraws(NamedTuple):
    """Draws of the consistency term: noise (B, A) and two times (B, 1)."""

    noise: Tensor
    t_first: Tensor
    t_second: Tensor


class MeanFlowDraws(NamedTuple):
    """Draws of the MeanFlow loss: noise (B, A) and time (B, 1).

    Where the options ask for them: the draws of the consistency term, the interval's lower end r (B, 1), and the
    objective's own number (B, 1).
    """

    noise: Tensor
    t: Tensor
    consistency: ConsistencyDraws | tuple[()] = ()
    r: Tensor | tuple[()] = ()
    objective: Tensor | tuple[()] = ()


class MeanFlowTerms(NamedTuple):
    """The parts of the MeanFlow regression, each (B, A): what the loss is made of, for tests and figures."""

    x_t: Tensor
    velocity: Tensor
    g: Tensor
    dg_dt: Tensor | None
    """None for an objective without derivative."""
    target: Tensor
    """Before clipping, without gradient."""


@HEADS.register("meanflow", config=MeanFlowConfig)
class MeanFlowHead(GenerativeHead):
    """MeanFlow: one jump along the average velocity of a flow carries noise to an action.

    What the network learns is the average velocity u of the flow over an interval [r, t] of time. With
    x_t = (1 - t) action + t noise, v = noise - action and the network's output g(features, x_t, r, t),

        g* = phi + (t - r) phi' - v - (t - r) dg/dt     (stop-gradient, clipped; `Reformulation.target`)
        D = mean over action dims of (g - g*)^2
        per_sample = w D,   w = clip(1 / (D + c)^(1 - gamma), 1e-6, 1e6)     (stop-gradient)

    where dg/dt is the total derivative along the path with r fixed, a Jacobian-vector product in the direction
    (v, 0, 1). Other targets: `genpolicy.heads.objectives`. By default r is 0 everywhere and no input of the network;
    with `two_time` it is drawn, and the network is given (r, t).

    Sampling: x_r = x_t - (t - r) u(x_t, r, t) on a uniform grid of `sampling_steps` intervals from 1 to 0; one step is
    action = `Reformulation.action` of g(features, noise, 0, 1).

    With `action_transform` all of this happens in a latent space: dataset actions enter through the inverse of the
    squashing, the regression and its clip see latent actions, and generated ones are squashed on leaving, so that
    samples lie inside the action bounds and the bound penalty of a policy is 0.

    **Paper notation** (arXiv:2511.13035): a = action, e = noise, z_t = x_t, r = 0, b = 0, alpha = bc_weight of the
    policy. Its clock is ours.

    **Reference.** HiccupRL/MeanFlowQL ``agents/meanflowql.py``: mean (not sum) over action dimensions, exponent
    1 - gamma, clamps 1e-12 and [1e-6, 1e6], uniform noise without scale; two times enter its ``MFDiT`` as (r, t).

    **Deviation.** The consistency term draws its two times like the main term. The reference draws them from the grid
    even when the main time is continuous.

    Cost: training, one forward pass with its tangent and one backward pass (no gradient flows through the tangent);
    acting, `sampling_steps` forward passes, with the time embedding computed once for all rows.
    """

    @classmethod
    def metric_formulas(cls, config: MeanFlowConfig) -> dict[str, str]:
        """See the base class."""
        formulas = {
            "mean_flow_loss": "mean over batch of w D, D = mean over action dims of (g - clip(g*))^2, "
            "w = 1 / (D + adaptive_c)^(1 - adaptive_gamma)",
            "regression_error": "mean over batch of D",
            "velocity_error": "mean over batch and action dims of (u - (noise - action))^2, u the average velocity",
        }
        if OBJECTIVES[config.objective].cls.takes_derivative:
            formulas["dg_dt_norm"] = "root of the mean over batch and action dims of (dg/dt)^2"
        if config.consistency_weight:
            formulas["consistency_loss"] = "mean over batch and action dims of (a(t_1) - a(t_2))^2, a = x_t - t u"
        return formulas

    def __init__(self, config: MeanFlowConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.sampling_steps
        self.reformulation = REFORMULATIONS[config.reformulation].cls()
        self.objective = OBJECTIVES[config.objective].cls()
        self.times = TimeSampler(
            config.time_law, config.time_mean, config.time_std, config.time_steps, config.noise_share
        )
        self.action_transform = make_action_transform(
            config.action_transform, softsign_scale=config.softsign_scale, margin=config.action_margin
        )
        self.backbone = BACKBONES.create(
            config.backbone,
            feature_dim=feature_dim,
            input_dim=action_dim,
            num_times=2 if config.two_time else 1,
            output_dim=action_dim,
        )

    def network(
        self,
        features: Float[Tensor, "*batch F"],
        x_t: Float[Tensor, "*batch A"],
        r: Float[Tensor, "*#batch 1"],
        t: Float[Tensor, "*#batch 1"],
    ) -> Float[Tensor, "*batch A"]:
        """Return the output g; with one time r is left out, as it is always 0."""
        times = (r, t) if self.config.two_time else (t,)
        return self.backbone(features, x_t, *times)

    @property
    def noise_law(self) -> tuple[Literal["normal", "uniform"], float]:
        """By `noise` and `noise_scale`."""
        return ("uniform", 1.0) if self.config.noise == "uniform" else ("normal", self.config.noise_scale)

    def noise(self, n: int, generator: torch.Generator) -> Float[Tensor, "n A"]:
        """Draw noise for n actions."""
        if self.config.noise == "uniform":
            return 2 * torch.rand(n, self.action_dim, generator=generator, device=generator.device) - 1
        return self.config.noise_scale * super().noise(n, generator)

    @property
    def follows_progress(self) -> bool:
        """Whether the objective changes in the course of training."""
        return self.objective.follows_progress

    def draw(self, n: int, generator: torch.Generator) -> MeanFlowDraws:
        """Draw noise and times for n rows; a curriculum is at its end."""
        return self.draw_at(1.0, n, generator)

    def draw_at(self, progress: float, n: int, generator: torch.Generator) -> MeanFlowDraws:
        """Draw noise and times for n rows, and the objective's numbers at a share `progress` of training."""
        config, consistency, r = self.config, (), ()
        noise = self.noise(n, generator)
        if config.two_time:
            r, t = self.times.draw_interval(n, generator, instant_share=config.instant_share)
        else:
            t = self.times.draw(n, generator)
        if config.consistency_weight:
            pair = self.noise(n, generator), self.times.draw(n, generator), self.times.draw(n, generator)
            consistency = ConsistencyDraws(*pair)
        start, end = config.curriculum_start, config.curriculum_end
        position = min(max((progress - start) / max(end - start, 1e-9), 0.0), 1.0)
        return MeanFlowDraws(noise, t, consistency, r, self.objective.draw(n, generator, position))

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: MeanFlowDraws) -> HeadLoss:
        """Return the adaptively weighted MeanFlow regression; see the class."""
        terms = self._terms(features, action, draws)
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
            }
            if terms.dg_dt is not None:
                metrics["dg_dt_norm"] = terms.dg_dt.square().mean().sqrt()
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
        r: Float[Tensor, "B 1"] | None = None,
        objective: Float[Tensor, "B 1"] | None = None,
    ) -> MeanFlowTerms:
        """Evaluate the network, its total derivative along the path, and the regression target.

        Args:
            features: (B, F).
            action: (B, A), the dataset's actions.
            noise: (B, A).
            t: (B, 1) in [0, 1].
            r: (B, 1) in [0, t], for a head with two times; 0 if not given.
            objective: (B, 1), lambda of `split` or alpha of `alpha`.

        Raises:
            TimeError: for a time outside [0, 1] or r > t.
            ConfigError: for r without two times, or an objective without its numbers.
        """
        check_times(t, r)
        draws = MeanFlowDraws(noise, t, r=() if r is None else r, objective=() if objective is None else objective)
        return self._terms(features, action, draws)

    def jump(
        self,
        features: Float[Tensor, "*batch F"],
        x_t: Float[Tensor, "*batch A"],
        noise: Float[Tensor, "*batch A"],
        t: Float[Tensor, "*batch 1"],
        r: Float[Tensor, "*batch 1"] | None = None,
    ) -> Float[Tensor, "*batch A"]:
        """Carry points of the flow from time t to r: x_r = x_t - (t - r) u(x_t, r, t).

        Args:
            features: (\\*batch, F).
            x_t: (\\*batch, A), in the space in which actions are generated.
            noise: (\\*batch, A), where the paths came from at t = 1; only a phi that contains it looks at it.
            t: (\\*batch, 1) in [0, 1].
            r: (\\*batch, 1) in [0, t], for a head with two times; 0 if not given.

        Raises:
            TimeError: for a time outside [0, 1] or r > t.
            ConfigError: for r without two times.
        """
        check_times(t, r)
        return self._jump(features, x_t, noise, t, self._lower_end(t, r))

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with `steps` network evaluations."""
        # Times of one element are shared by all rows: embedded once.
        grid = [noise.new_full((1,) * noise.ndim, 1 - k / self.steps) for k in range(self.steps + 1)]
        if self.steps == 1:
            t, r = grid
            latent = self.reformulation.action(self.network(features, noise, r, t), noise, t)
        else:
            latent = noise
            for t, r in pairwise(grid):
                latent = self._jump(features, latent, noise, t, r)
        return self.action_transform.to_action(latent)

    def _terms(self, features: Tensor, action: Tensor, draws: MeanFlowDraws) -> MeanFlowTerms:
        latent = self.action_transform.to_latent(action)
        x_t, velocity = paths.interpolate(latent, draws.noise, draws.t), paths.velocity(latent, draws.noise)
        at = Interval(x_t, draws.noise, velocity, self._lower_end(draws.t, draws.r), draws.t)
        field = Field(lambda x, r, t: self.network(features, x, r, t), self.reformulation)
        fit = self.objective.regression(field, at, draws.objective)
        return MeanFlowTerms(x_t, velocity, fit.g, fit.dg_dt, fit.target)

    def _jump(self, features: Tensor, x_t: Tensor, noise: Tensor, t: Tensor, r: Tensor) -> Tensor:
        g = self.network(features, x_t, r, t)
        return x_t - (t - r) * self.reformulation.avg_velocity(g, x_t, noise, t)

    def _lower_end(self, t: Tensor, r: Tensor | tuple[()] | None) -> Tensor:
        if not isinstance(r, Tensor):
            return torch.zeros_like(t)
        if not self.config.two_time:
            raise ConfigError(
                "This head has one time: its intervals start at r = 0. Leave r out, or set head.two_time=true."
            )
        return r

    def _consistency(
        self, features: Tensor, action: Tensor, draws: ConsistencyDraws | tuple[()]
    ) -> Float[Tensor, " B"]:
        """Squared distance between the actions that two times of one path point to (the second is the target)."""
        assert isinstance(draws, ConsistencyDraws)
        latent = self.action_transform.to_latent(action)

        def jump_to_action(t: Tensor) -> Tensor:
            x_t = paths.interpolate(latent, draws.noise, t)
            return self._jump(features, x_t, draws.noise, t, torch.zeros_like(t))

        with torch.no_grad():  # Stop-gradient: the second action is the target of the first.
            second = jump_to_action(draws.t_second)
        return (jump_to_action(draws.t_first) - second).square().mean(dim=-1)
