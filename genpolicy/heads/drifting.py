"""Drifting models: a one-step generator whose samples drift towards the data (arXiv:2602.04770)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import ConfigError
from genpolicy.heads.base import GenerativeHead, HeadLoss
from genpolicy.networks.mlp import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS


@dataclass(frozen=True)
class DriftingConfig(Options):
    """Hyperparameters of the drifting head."""

    backbone: Options = slot("backbone", MLPConfig(), "the generator, a network of (features, noise)")
    generated: int = option(8, "G, generated actions per state, which drift and repel each other", minimum=2)
    kernel: Literal["gaussian", "laplace"] = option("gaussian", "exp(-d^2 / (2 h^2)) or exp(-d / h) of a distance d")
    bandwidths: tuple[float, ...] = option(
        (0.1, 0.3, 1.0),
        "h, each with a drift of its own; in units of an action's coordinates (distances are means over action dims)",
        above=0,
    )
    weights: Literal["kernel", "softmax"] = option(
        "kernel", "a point pulls with its kernel value over h, or with its share of all points' values (DriftQL)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bandwidths:
            raise ConfigError("DriftingConfig.bandwidths is empty; give at least one, as in bandwidths=[0.3].")


class DriftingDraws(NamedTuple):
    """Draws of the drifting loss: noise (B, G, A) of the generated actions."""

    noise: Tensor


@HEADS.register("drifting", config=DriftingConfig)
class DriftingHead(GenerativeHead):
    """Drifting model: generated actions are attracted by the data and repelled by each other.

    An action is one evaluation of the network, x = f(features, noise). For each state the loss generates G of them,
    and moves each along a drift V: with the dataset's action a and the other generated actions y,

        per_sample = mean over G and action dims of (x - stop-gradient(x + V(x)))^2
        V(x) = mean over h of (force of a on x) - (force of all y on x)
        force on x of n points p = 1 / (n h) sum of k_h(x, p) (p - x)                                weights=kernel
                                 = sum of k_h(x, p) (p - x) / sum of k_h(x, p)                       weights=softmax
        k_h = exp(-d^2 / (2 h^2)) or exp(-d / h),   d^2 = mean over action dims of (x - p)^2

    **Where it settles.** With weights=kernel both forces are expectations of one function of x and a point, under the
    law p of the data's actions and the law q of the generated ones. So they can be estimated without bias from a
    single a, are equal if p = q, and the expected drift vanishes there. The loss's gradient is that of a squared
    maximum mean discrepancy, estimated without bias: of 1/(h A) MMD^2(p, q) with the kernel whose gradient is
    k_h(x, p) (p - x), which is A h^2 exp(-d^2 / (2 h^2)) or A h (h + d) exp(-d / h). Both tell all laws apart, so that
    no other law than p has so small a discrepancy. With 1/h, the strongest pull of each bandwidth has the same size.

    With weights=softmax and one data action per state, the attraction is a - x whatever the kernel, so that its mean
    knows of the data only their mean. A head fitted by this loss alone collapses to nearly that mean, between the
    modes; it needs a critic's gradient to choose one.

    The loss is the size of a noisy drift: its gradient means something, its value does not vanish at the optimum.

    **Paper notation** (arXiv:2602.04770): epsilon = noise, y+ = action, y- = other generated actions, tau = h,
    V_{p,q} = V_p^+ - V_q^- = V. No flow time takes part.

    **Reference.** arXiv:2602.04770 divides each force by the mean kernel value at x, over many data points per class;
    a state of an offline dataset has one action, for which this quotient is biased as above. DFP (arXiv:2605.07727,
    KAIST-Visual-AI-Group/DFP ``utils/drift_loss.py``) divides by a joint sum over data and generated points and over
    rows and columns. DriftQL (arXiv:2606.00350, DT6A/driftql ``agents/driftql.py``) is weights=softmax with one
    bandwidth. Deviations: kernel values are not normalised (weights=kernel); no drift is rescaled by its average over
    a batch, so that rows stay independent; distances are of actions, not of learned features; actions are not clipped
    to the bounds before and after drifting (the policy penalises actions outside).

    Cost: training, a forward and a backward pass for G actions per state, and G^2 distances; acting, one network
    evaluation.
    """

    config: DriftingConfig

    @classmethod
    def metric_formulas(cls, config: DriftingConfig) -> dict[str, str]:
        """See the base class."""
        return {"drift": "root of the mean over batch, G and action dims of V(x)^2"}

    def __init__(self, config: DriftingConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.backbone = BACKBONES.create(
            config.backbone, feature_dim=feature_dim, input_dim=action_dim, num_times=0, output_dim=action_dim
        )

    def draw(self, n: int, generator: torch.Generator) -> DriftingDraws:
        """Draw the noise of G actions for each of n rows."""
        return DriftingDraws(rearrange(self.noise(n * self.config.generated, generator), "(n g) a -> n g a", n=n))

    def loss(self, features: Float[Tensor, "B F"], action: Float[Tensor, "B A"], draws: DriftingDraws) -> HeadLoss:
        """Return the squared drift of each row's generated actions; see the class."""
        x = self.sample(features.unsqueeze(-2).expand(*draws.noise.shape[:-1], -1), draws.noise)
        with torch.no_grad():  # Stop-gradient: samples move to the target, the target does not move.
            target = x + self.drift(x, action)
        error = (x - target).square().mean(dim=(-2, -1))
        return HeadLoss(error, error, {"drift": error.detach().mean().sqrt()})

    def drift(self, x: Float[Tensor, "*batch G A"], action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch G A"]:
        """Return V: which way generated actions move.

        Args:
            x: (\\*batch, G, A), the generated actions of each state.
            action: (\\*batch, A), the dataset's action of each state.
        """
        to_data = (action.unsqueeze(-2) - x).unsqueeze(-2)  # (*batch, G, 1, A)
        to_generated = x.unsqueeze(-3) - x.unsqueeze(-2)  # (*batch, G, G, A)
        itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        drifts = [
            self._force(to_data, h) - self._force(to_generated, h, without=itself) for h in self.config.bandwidths
        ]
        return torch.stack(drifts).mean(dim=0)

    def sample(
        self, features: Float[Tensor, "*batch F"], noise: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch A"]:
        """Return f(features, noise)."""
        return self.backbone(features, noise)

    def _force(self, difference: Tensor, h: float, without: Tensor | None = None) -> Float[Tensor, "*batch G A"]:
        """Force of points on x, from their differences to x (\\*batch, G, points, A)."""
        square, points = difference.square().mean(dim=-1) / h**2, difference.shape[-2]
        log_kernel = -square / 2 if self.config.kernel == "gaussian" else -square.sqrt()
        if without is not None:
            log_kernel, points = log_kernel.masked_fill(without, -torch.inf), points - 1
        softmax = self.config.weights == "softmax"
        weights = log_kernel.softmax(dim=-1) if softmax else log_kernel.exp() / (points * h)
        return (weights.unsqueeze(-1) * difference).sum(dim=-2)
