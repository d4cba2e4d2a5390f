"""Flow matching as a policy: a learned velocity carries noise to an action (arXiv:2210.02747, arXiv:2502.02538)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.heads import paths
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.heads.solvers import EVALUATIONS, Solver, integrate
from genpolicy.heads.time_sampling import TimeSampler
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class FlowMatchingConfig(Options):
    """Hyperparameters of a flow, by itself or as a teacher; the defaults are those of seohongpark/fql."""

    backbone: Options = slot("backbone", MLPConfig(time_embedding="raw"), "the network of (features, x_t, 1 - t)")
    flow_steps: int = option(10, "K, steps of the solver from noise to an action", minimum=1)
    solver: Solver = option("euler", "rule of a step; midpoint and heun evaluate the network twice in each")
    time_law: Literal["uniform", "logit_normal", "beta"] = option(
        "uniform", "law of the times that the velocity is fitted at"
    )
    time_mean: float = option(0.0, "logit_normal: mean of the normal (arXiv:2403.03206)")
    time_std: float = option(1.0, "logit_normal: its standard deviation", above=0)
    time_a: float = option(1.5, "beta: t ~ Beta(a, b), density t^(a - 1) (1 - t)^(b - 1) (arXiv:2410.24164)", above=0)
    time_b: float = option(1.0, "beta: its second parameter; a > b favours the noise end", above=0)


@dataclass(frozen=True)
class FlowConfig(FlowMatchingConfig):
    """Hyperparameters of the flow head."""

    gradient_steps: int | None = option(
        None, "last steps of the solver through which gradients of a sample flow; null: all", minimum=1
    )


class FlowDraws(NamedTuple):
    """Draws of the flow-matching loss: noise (B, A) and time (B, 1)."""

    noise: Tensor
    t: Tensor


@HEADS.register("flow", config=FlowConfig)
class FlowHead(GenerativeHead):
    """Flow matching: the network learns the velocity of straight paths, a solver follows it from noise to an action.

        x_t = (1 - t) action + t noise
        velocity(features, x_t, t) = -network(features, x_t, 1 - t)
        per_sample = mean over action dims of (velocity(features, x_t, t) - (noise - action))^2

    Sampling solves dx/dt = velocity from x = noise at t = 1 to t = 0 in K steps (`genpolicy.heads.solvers`). Samples
    are not clipped. With `gradient_steps` = n, gradients reach the last n steps only, and the earlier ones are
    constants.

    **Paper notation** (arXiv:2502.02538): x_0 or z = noise, x_1 or a = action, M or flow_steps = K. Its clock is
    reversed, s = 1 - t, and so is its velocity, x_1 - x_0 = -velocity. The network is the paper's field of (s, x_s), so
    that weights mean the same in both: an Euler step reads it at s = i / K, i = 0 .. K - 1, never at the data.

    **Reference.** seohongpark/fql ``agents/fql.py`` (``actor_bc_flow``): uniform times, one raw column of time, mean
    over action dims. Logit-normal times: arXiv:2403.03206, section 3.1; Beta times: arXiv:2410.24164, appendix B,
    whose Beta(1.5, 1) also stops at 0.999 of its reversed clock.

    Cost: training, one forward and one backward pass; acting, K forward passes (2 K with midpoint and heun); a
    gradient through a sample, the backward passes of the last `gradient_steps` steps.
    """

    config: FlowConfig

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """See the base class."""
        return {"flow_loss": "mean over batch and action dims of (velocity(x_t, t) - (noise - action))^2"}

    def __init__(self, config: FlowConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.steps = config.flow_steps * EVALUATIONS[config.solver]
        self.times = TimeSampler(config.time_law, config.time_mean, config.time_std, a=config.time_a, b=config.time_b)
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=1, output_dim=action_dim
        )

    def velocity(
        self, features: Float[Tensor, "*batch F"], x_t: Float[Tensor, "*batch A"], t: Float[Tensor, "*#batch 1"]
    ) -> Float[Tensor, "*batch A"]:
        """Return the learned d x_t / dt.

        Args:
            features: (\\*batch, F).
            x_t: (\\*batch, A).
            t: (\\*batch, 1) in [0, 1], or of any shape that broadcasts to it.
        """
        return -self.backbone(features, x_t, 1 - t)

    def draw(self, n: int, generator: torch.Generator) -> FlowDraws:
        """Draw noise and times for n rows."""
        return FlowDraws(self.noise(n, generator), self.times.draw(n, generator))

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: FlowDraws) -> HeadLoss:
        """Return the squared error of the velocity, averaged over action dims (eq. 5 of arXiv:2502.02538)."""
        x_t = paths.interpolate(action, draws.noise, draws.t)
        difference = self.velocity(features, x_t, draws.t) - paths.velocity(action, draws.noise)
        error = difference.square().mean(dim=-1)
        return HeadLoss(error, error, {"flow_loss": error.detach().mean()})

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Generate actions with K steps of the solver."""
        return integrate(
            lambda x_t, t: self.velocity(features, x_t, t),
            noise,
            steps=self.config.flow_steps,
            solver=self.config.solver,
            gradient_steps=self.config.gradient_steps,
        )
