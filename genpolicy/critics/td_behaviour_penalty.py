"""TD learning whose target punishes next actions far from the dataset's (ReBRAC, arXiv:2305.09836)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.critics.base import ActionSource
from genpolicy.critics.td import TDConfig, TDCritic
from genpolicy.errors import ShapeError
from genpolicy.options import option
from genpolicy.registry import CRITICS


@dataclass(frozen=True)
class TDBehaviourPenaltyConfig(TDConfig):
    """Hyperparameters of the TD critic with a penalty on next actions."""

    penalty_weight: float = option(
        0.01, "weight of the squared distance to the dataset's next action (ReBRAC: 0 to 0.5, by task)", minimum=0
    )


@CRITICS.register("td_behaviour_penalty", config=TDBehaviourPenaltyConfig)
class TDBehaviourPenaltyCritic(TDCritic):
    """TD learning with a target that is lowered by the distance of the next action from the dataset's.

        y = r + discount^n * mask * (agg_i Q'_i(s', a') - penalty_weight * |a' - a'_data|^2)
        loss = mean over members and batch of (Q_i(s, a) - y)^2

    with a' the policy's action at s' (clipped), a'_data the dataset's action there, the square summed over action
    dims. Of several candidates the one with the highest penalised value counts. Smoothing noise on a' (TD3) is the
    head's: a deterministic head's samples carry it.

    **Paper notation** (arXiv:2305.09836, section 3): beta_2 = penalty_weight; beta_1 is the policy's bc_weight.

    **Reference.** seohongpark/fql ``agents/rebrac.py`` (alpha_critic = penalty_weight): the penalty stands inside the
    bracket, so it is discounted and masked like the value.

    Cost: as `td`.
    """

    config: TDBehaviourPenaltyConfig

    @classmethod
    def _next_value_formula(cls, config: TDConfig) -> str:
        return f"({super()._next_value_formula(config)} - penalty_weight norm(a' - a'_data)^2)"

    def _next_values(self, batch: Batch, policy: ActionSource, noise: Tensor) -> Float[Tensor, "E N B"]:
        if batch.next_actions is None:
            raise ShapeError(
                "critic=td_behaviour_penalty compares next actions with the dataset's, but the batch holds no "
                "'next_actions' (B, A). Add the dataset's actions at 'next_observations', or use critic=td."
            )
        candidates = policy.next_actions(batch.next_features, noise)
        distance = (candidates - batch.next_actions).square().sum(dim=-1)
        return self.target_q(batch.next_features, candidates) - self.config.penalty_weight * distance
