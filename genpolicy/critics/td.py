"""Temporal-difference learning of an ensemble, with a target network and best-of-N next actions."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from genpolicy.batch import Batch
from genpolicy.critics.base import ActionSource, CriticLoss
from genpolicy.critics.ensemble import EnsembleConfig, EnsembleCritic
from genpolicy.errors import ConfigError
from genpolicy.options import option
from genpolicy.registry import CRITICS


@dataclass(frozen=True)
class TDConfig(EnsembleConfig):
    """Hyperparameters of the TD critic; the defaults are those of HiccupRL/MeanFlowQL."""

    num_candidates: int | None = option(
        None,
        "candidate next actions, the best by the target critic counts; null: as many as the policy ranks",
        minimum=1,
    )
    subset_size: int | None = option(
        None, "members, chosen at random in each update, that make the target (REDQ: 2 of 10); null: all", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset_size is not None and self.subset_size > self.ensemble_size:
            raise ConfigError(
                f"{type(self).__name__}.subset_size is {self.subset_size}, more than the {self.ensemble_size} members "
                "there are. Lower it, raise ensemble_size, or set subset_size=null for all members."
            )


class TDDraws(NamedTuple):
    """Draws of the TD loss: noise of the next action's candidates, (N, B, ...).

    With `subset_size` = M also the indices (M,) of the members that make the target.
    """

    next_noise: Tensor
    members: Tensor | tuple[()] = ()


@CRITICS.register("td", config=TDConfig)
class TDCritic(EnsembleCritic):
    """An ensemble of Q functions trained on bootstrapped returns, with a moving-average target.

        y = r + discount^n * mask * agg_i Q'_i(s', a*),   a* = argmax_j mean_i Q'_i(s', a_j),   j = 1 .. N
        loss = mean over members and batch of (Q_i(s, a) - y)^2

    with a_j the policy's candidates at s' (clipped), Q' the target network, r the n-step return. The values that
    choose a* are the ones that enter y: each candidate is scored once. N = 1 is the usual actor-critic target. With
    `subset_size` i runs, on both sides of y, over a few members chosen at random for the whole batch.

    **Paper notation.** REDQ (arXiv:2101.05982, algorithm 1): N members = `ensemble_size`, M = `subset_size`, with
    q_agg = min. RLPD (arXiv:2302.02948) takes `ensemble_size` = 10 and M = 1 or 2.

    **Reference.** HiccupRL/MeanFlowQL ``agents/meanflowql.py``: candidates are ranked by the *target* critic's mean
    whatever `q_agg` is, ties go to the first, and all N candidates are used (its code asks for half of them, but the
    number arrives as a traced value and falls back to N). Deviation: its ensemble axis is found by its size, which
    picks a wrong action when N * B = 2; here it is always the first.

    Cost: E forward and backward passes at (s, a), E * N forward passes of the target at s' (all members, though only M
    are used: they are one batched product), N actions of the policy.
    """

    config: TDConfig

    @classmethod
    def _target_formula(cls, config: TDConfig) -> str:
        return f"r + discount^n mask {cls._next_value_formula(config)}"

    @classmethod
    def _next_value_formula(cls, config: TDConfig) -> str:
        members = "" if config.subset_size is None else f" over {config.subset_size} random members"
        return f"{config.q_agg}_i Q'_i(s', a'){members}"

    def draw(self, n: int, policy: ActionSource, generator: torch.Generator) -> TDDraws:
        """Draw the noise of the next action's candidates and, with `subset_size`, the members of the target."""
        noise = policy.noise(n, generator, self.config.num_candidates or policy.ranked_candidates)
        if self.config.subset_size is None:
            return TDDraws(noise)
        order = torch.randperm(self.config.ensemble_size, generator=generator, device=generator.device)
        return TDDraws(noise, order[: self.config.subset_size])

    def loss(self, batch: Batch, policy: ActionSource, draws: TDDraws) -> CriticLoss:
        """Return the loss of the members on the bootstrapped target; see the class."""
        with torch.no_grad():  # Stop-gradient: the bootstrapped target is data.
            qs = self._next_values(batch, policy, draws.next_noise)
            if self.config.subset_size is not None:
                assert isinstance(draws.members, Tensor), "TDDraws.members is missing; draw() makes it"
                qs = qs.index_select(0, draws.members)
            target = batch.rewards + batch.discounts * batch.masks * self._best(qs)
        return self._fit(batch, target)

    def _next_values(self, batch: Batch, policy: ActionSource, noise: Tensor) -> Float[Tensor, "E N B"]:
        """Return the members' values of the candidates at the next states."""
        return self.target_q(batch.next_features, policy.next_actions(batch.next_features, noise))

    def _best(self, qs: Float[Tensor, "E N B"]) -> Float[Tensor, " B"]:
        """Aggregate the members' values of the candidate with the highest mean."""
        choice = qs.mean(dim=0).argmax(dim=0)
        chosen = qs.gather(1, rearrange(choice, "b -> 1 1 b").expand(qs.shape[0], 1, -1)).squeeze(1)
        return self._aggregate(chosen)
