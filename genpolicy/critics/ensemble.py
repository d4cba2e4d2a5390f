"""What critics made of an ensemble of Q functions with a moving-average target share."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.critics.base import Critic, CriticConfig, CriticLoss
from genpolicy.networks.ensemble import EnsembleMLP
from genpolicy.networks.layers import join
from genpolicy.options import option


@dataclass(frozen=True)
class EnsembleConfig(CriticConfig):
    """Hyperparameters of an ensemble of Q functions; the sizes are those of HiccupRL/MeanFlowQL and seohongpark/fql."""

    ensemble_size: int = option(2, "E, number of Q functions", minimum=1)
    hidden_dims: tuple[int, ...] = option((512, 512, 512, 512), "width of each hidden layer", minimum=1)
    layer_norm: bool = option(True, "LayerNorm after each activation")
    q_agg: Literal["min", "mean", "max"] = option("min", "how the members' target values become one")
    reduction: Literal["mean", "sum"] = option(
        "mean", "mean or sum of the members' losses; the sum trains each member as if it were alone"
    )
    ema_rate: float = option(0.005, "share of the online parameters in each update of the target", minimum=0, maximum=1)


class EnsembleCritic(Critic):
    """An ensemble of Q functions on features and action, and a slowly moving copy of it.

    Subclasses say what the values are fitted to.

    Args:
        config: the critic's hyperparameters.
        feature_dim: F.
        action_dim: A.
        outputs: width of each member's output.
    """

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, *, feature_dim: int, action_dim: int, outputs: int = 1):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.online = EnsembleMLP(
            config.ensemble_size,
            feature_dim + action_dim,
            config.hidden_dims,
            outputs,
            layer_norm=config.layer_norm,
        )
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """See the base class."""
        return {
            "loss": f"{config.reduction} over members of the batch mean of {cls._error_formula}",
            "q_mean": "mean over members and batch of Q_i(s, a)",
            "q_min": "smallest Q_i(s, a) of members and batch",
            "q_max": "largest Q_i(s, a) of members and batch",
            "target_mean": f"mean over batch of y = {cls._target_formula(config)}",
        }

    _error_formula = "(Q_i(s, a) - y)^2"

    @classmethod
    def _target_formula(cls, config: Any) -> str:
        return "the critic's target"

    def q(self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]) -> Float[Tensor, "E *batch"]:
        """Return the online network's values."""
        return self._values(self.online(join(features, action)))

    def target_q(
        self, features: Float[Tensor, "*batch F"], action: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "E *batch"]:
        """Return the target network's values."""
        return self._values(self.target(join(features, action)))

    def _values(self, outputs: Float[Tensor, "E *batch Y"]) -> Float[Tensor, "E *batch"]:
        """Turn the members' outputs into values."""
        return outputs.squeeze(-1)

    def _errors(self, outputs: Float[Tensor, "E B Y"], target: Float[Tensor, " B"]) -> Float[Tensor, "E B"]:
        """Return each member's loss on each row."""
        return (self._values(outputs) - target).square()

    def _aggregate(self, qs: Float[Tensor, "E *batch"]) -> Float[Tensor, "*batch"]:
        """Make one value of the members', by `q_agg`."""
        match self.config.q_agg:
            case "mean":
                return qs.mean(dim=0)
            case "max":
                return qs.amax(dim=0)
            case _:
                return qs.amin(dim=0)

    def _fit(self, batch: Batch, target: Float[Tensor, " B"]) -> CriticLoss:
        """Return the loss of the online members on scalar targets: mean over the batch, `reduction` over members."""
        outputs = self.online(join(batch.features, batch.actions))
        of_members = self._errors(outputs, target).mean(dim=-1)
        loss = of_members.mean() if self.config.reduction == "mean" else of_members.sum()
        q = self._values(outputs.detach())
        metrics = {
            "loss": loss.detach(),
            "q_mean": q.mean(),
            "q_min": q.min(),
            "q_max": q.max(),
            "target_mean": target.mean(),
        }
        return CriticLoss(loss, metrics)

    @torch.no_grad()
    def update_targets(self) -> None:
        """target <- ema_rate * online + (1 - ema_rate) * target."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.online.parameters()), self.config.ema_rate)
