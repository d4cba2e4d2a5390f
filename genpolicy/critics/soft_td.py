"""Soft TD learning: values that count the policy's entropy (SAC, arXiv:1812.05905)."""

from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.critics.base import ActionSource, SoftActionSource
from genpolicy.critics.td import TDConfig, TDCritic
from genpolicy.options import option
from genpolicy.registry import CRITICS


@dataclass(frozen=True)
class SoftTDConfig(TDConfig):
    """Hyperparameters of the soft TD critic."""

    entropy_backup: bool = option(
        True, "whether the target counts the next action's entropy (the paper: true; seohongpark/fql: false)"
    )


@CRITICS.register("soft_td", config=SoftTDConfig)
class SoftTDCritic(TDCritic):
    """TD learning of soft values: the target rewards the policy for the entropy of its next action.

        y = r + discount^n * mask * (agg_i Q'_i(s', a') - entropy_weight * log_prob(a' | s')),   a' ~ policy
        loss = mean over members and batch of (Q_i(s, a) - y)^2

    The entropy weight is the policy's, without gradient. Of several candidates the one with the highest soft value
    counts. With `entropy_backup=false` the log density is left out.

    **Paper notation** (arXiv:1812.05905, eqs. 3 and 5): alpha = entropy_weight, theta-bar = the target network, with
    q_agg = min the two Q functions of its section 6. RLPD (arXiv:2302.02948): ensemble_size = 10, subset_size = 2 (or
    1), layer_norm = true.

    **Reference.** seohongpark/fql ``agents/sac.py``: `entropy_backup` is its backup_entropy.

    Cost: as `td`.
    """

    config: SoftTDConfig

    @classmethod
    def refuses(cls, config: Any, parts: Parts) -> str | None:
        """Refuse policies that cannot tell the log density of their actions."""
        if all(hasattr(parts.policy, name) for name in ("next_actions_with_log_prob", "entropy_weight")):
            return None
        return (
            f"critic=soft_td asks the policy for log densities and an entropy weight, which {parts.policy.__name__} "
            "does not have. Use policy=soft, or critic=td for values without entropy."
        )

    @classmethod
    def _next_value_formula(cls, config: Any) -> str:
        value = super()._next_value_formula(config)
        return f"({value} - alpha log p(a'))" if config.entropy_backup else value

    def _next_values(self, batch: Batch, policy: ActionSource, noise: Tensor) -> Float[Tensor, "E N B"]:
        soft = cast(SoftActionSource, policy)
        candidates, log_prob = soft.next_actions_with_log_prob(batch.next_features, noise)
        qs = self.target_q(batch.next_features, candidates)
        return qs - soft.entropy_weight() * log_prob if self.config.entropy_backup else qs
