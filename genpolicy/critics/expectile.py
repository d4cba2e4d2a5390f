"""Expectile values: the value of good actions without ever asking for one (IQL, arXiv:2110.06169)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.critics.base import ActionSource, CriticLoss
from genpolicy.critics.ensemble import EnsembleConfig, EnsembleCritic
from genpolicy.networks.mlp import MLP, MLPConfig
from genpolicy.options import option
from genpolicy.registry import CRITICS


@dataclass(frozen=True)
class ExpectileConfig(EnsembleConfig):
    """Hyperparameters of the expectile critic; the defaults are those of seohongpark/fql's IQL and IFQL."""

    expectile: float = option(
        0.9,
        "asymmetry of V's loss: 0.5 is the mean of Q over the data's actions, towards 1 its maximum",
        above=0,
        below=1,
    )
    reduction: Literal["mean", "sum"] = option(
        "sum", "mean or sum of the members' losses; the sum trains each member as if it were alone"
    )


@CRITICS.register("expectile", config=ExpectileConfig)
class ExpectileCritic(EnsembleCritic):
    """V is an expectile of Q over the dataset's actions, and Q bootstraps from V: no action is ever generated.

        value loss = mean over batch of |expectile - 1[u < 0]| u^2,   u = agg_i Q'_i(s, a) - V(s)
        y = r + discount^n * mask * V(s')
        Q loss = sum over members of mean over batch of (Q_i(s, a) - y)^2
        loss = value loss + Q loss

    Q' is the target network, V has none. V has its own network of the same widths (`hidden_dims`, `layer_norm`).

    **Paper notation** (arXiv:2110.06169, eqs. 5 and 6): tau = expectile. Its advantage Q - V is read by policies that
    weight by it (`value`).

    **Reference.** seohongpark/fql ``agents/iql.py`` and ``agents/ifql.py``: minimum over two members for V, sum of the
    members' losses.

    Cost: E forward and backward passes at (s, a) and one of V at s; E forward passes of the target at (s, a) and one of
    V at s'. None of the policy.
    """

    config: ExpectileConfig

    def __init__(self, config: ExpectileConfig, *, feature_dim: int, action_dim: int):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        self.value_network = MLP(
            MLPConfig(hidden_dims=config.hidden_dims, layer_norm=config.layer_norm),
            feature_dim=feature_dim,
            input_dim=0,
            num_times=0,
            output_dim=1,
        )

    @classmethod
    def metric_formulas(cls, config: Any) -> dict[str, str]:
        """See the base class."""
        formulas = super().metric_formulas(config)
        u = f"{config.q_agg}_i Q'_i(s, a) - V(s)"
        return formulas | {
            "loss": "value_loss + q_loss",
            "q_loss": formulas["loss"],
            "value_loss": f"mean over batch of abs({config.expectile:g} - 1[u < 0]) u^2, u = {u}",
            "v_mean": "mean over batch of V(s)",
        }

    @classmethod
    def _target_formula(cls, config: Any) -> str:
        return "r + discount^n mask V(s')"

    def value(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch"]:
        """Return V of states."""
        return self.value_network(features).squeeze(-1)

    def draw(self, n: int, policy: ActionSource, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the loss needs no random numbers."""
        return ()

    def loss(self, batch: Batch, policy: ActionSource, draws: tuple[()]) -> CriticLoss:
        """Return the losses of V and Q; see the class."""
        with torch.no_grad():  # Stop-gradient: each of V and Q is data to the other.
            q = self._aggregate(self.target_q(batch.features, batch.actions))
            target = batch.rewards + batch.discounts * batch.masks * self.value(batch.next_features)
        v = self.value(batch.features)
        value_loss = expectile_loss(q - v, self.config.expectile).mean()
        q_loss, metrics = self._fit(batch, target)
        loss = value_loss + q_loss
        metrics |= {
            "loss": loss.detach(),
            "q_loss": q_loss.detach(),
            "value_loss": value_loss.detach(),
            "v_mean": v.detach().mean(),
        }
        return CriticLoss(loss, metrics)


def expectile_loss(error: Float[Tensor, "*batch"], expectile: float) -> Float[Tensor, "*batch"]:
    """|expectile - 1[error < 0]| error^2: the constant c that minimises it for x - c is the expectile of x."""
    weight = (expectile - (error < 0).to(error.dtype)).abs()
    return weight * error.square()
