"""What every policy promises, and how all of them act."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts
from genpolicy.critics.base import Critic
from genpolicy.errors import ConfigError
from genpolicy.heads.base import GenerativeHead
from genpolicy.heads.protocols import HasCurriculum
from genpolicy.options import Options, option

ACTION_LOW, ACTION_HIGH = -1.0, 1.0


class PolicyLoss(NamedTuple):
    """The policy's objective on a batch."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor]
    """Detached 0-d tensors for the log."""
    state: dict[str, Tensor]
    """The new values of the policy's explicit state (empty for a policy without any)."""


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Options of acting, which every policy has."""

    acting: Literal["mean", "single"] = option("single", "the mean of N candidates, or a single sample")
    num_candidates: int = option(5, "N, candidates per action (acting=single uses one)", minimum=1)
    temperature: float = option(1.0, "factor on the noise when acting; 0 is the mode of a Gaussian head", minimum=0)
    target_ema_rate: float | None = option(
        None,
        "share of the online head in each update of a target head, which gives the critic its next actions; null: none",
        minimum=0,
        maximum=1,
    )
    acting_head: Literal["online", "target"] = option("online", "which head acts, with a target head")


@dataclass(frozen=True)
class RankingPolicyConfig(PolicyConfig):
    """Options of a policy that can rank candidates by its critic."""

    acting: Literal["best", "mean", "single"] = option(
        "best", "best of N candidates by the critic, their mean, or a single sample"
    )
    ranking_critic: Literal["target", "online"] = option("target", "which critic parameters rank the candidates")
    ranking_agg: Literal["mean", "min"] = option("mean", "how the members' values become one rank")


class Policy(nn.Module, ABC):
    """How the critic improves the head, and how the improved head acts. A policy owns its head.

    Args:
        config: the policy's hyperparameters.
        head: the head to improve.
        total_steps: planned number of updates, the horizon of schedules.
    """

    needs_critic = True
    """Whether the policy learns from a critic, or acts by one."""

    config: PolicyConfig

    def __init__(self, config: Any, *, head: GenerativeHead, total_steps: int):
        super().__init__()
        self.config = config
        self.head = head
        self.total_steps = total_steps
        self.target_head = None
        if config.target_ema_rate is not None:
            self.target_head = copy.deepcopy(head).requires_grad_(False)

    @classmethod
    def refuses(cls, config: Any, parts: Parts) -> str | None:
        """Say why this policy cannot work with the other parts of a configuration, and the way out; None if it can."""
        if config.acting_head == "target" and config.target_ema_rate is None:
            return "policy.acting_head=target asks for a target head; set policy.target_ema_rate, as in 0.005."
        if cls.needs_critic and parts.critic is None:
            return _without_critic(cls)
        return None

    @classmethod
    def metric_formulas(cls, config: Any, of_head: Mapping[str, str]) -> dict[str, str]:
        """What each metric of `loss` is, by name, given the head's; a policy of your own may leave it out."""
        return {}

    # Acting

    @property
    def acting_candidates(self) -> int:
        """How many candidates acting generates."""
        return 1 if self.config.acting == "single" else self.config.num_candidates

    @property
    def ranked_candidates(self) -> int:
        """How many candidates acting ranks by Q; 1 if it doesn't."""
        return self.config.num_candidates if self._ranks else 1

    @property
    def _ranks(self) -> bool:
        return isinstance(self.config, RankingPolicyConfig) and self.config.acting == "best"

    def noise(self, n: int, generator: torch.Generator, candidates: int | None = None) -> Tensor:
        """Draw noise (N, n, \\*head.noise_shape) for n states; N is `candidates`, or what acting needs."""
        count = candidates or self.acting_candidates
        return rearrange(self.head.noise(count * n, generator), "(c n) ... -> c n ...", c=count)

    def next_actions(self, features: Float[Tensor, "B F"], noise: Float[Tensor, "N B ..."]) -> Float[Tensor, "N B A"]:
        """Return the actions that a critic's target is made of: one per noise, clipped, by the target head if any."""
        return sample_candidates(self.target_head or self.head, features, noise).clamp(ACTION_LOW, ACTION_HIGH)

    def act(
        self,
        features: Float[Tensor, "B F"],
        noise: Float[Tensor, "N B ..."],
        critic: Critic | None,
        *,
        temperature: float | None = None,
    ) -> Float[Tensor, "B A"]:
        """Return actions within the bounds, by the acting mode of the configuration.

        Args:
            features: (B, F).
            noise: (N, B, ...), from `noise`.
            critic: ranks the candidates; may be None unless `acting` is "best" with N > 1.
            temperature: factor on the noise in place of the configuration's, for exploring.
        """
        temperature = self.config.temperature if temperature is None else temperature
        head = self.target_head if self.config.acting_head == "target" and self.target_head else self.head
        candidates = sample_candidates(head, features, noise * temperature)
        if self.config.acting == "mean":
            # Reference: the average of the unclipped candidates, clipped afterwards.
            return candidates.mean(dim=0).clamp(ACTION_LOW, ACTION_HIGH)
        candidates = candidates.clamp(ACTION_LOW, ACTION_HIGH)
        if len(candidates) == 1:
            return candidates[0]
        if critic is None:
            raise ConfigError("Ranking candidates needs a critic; use policy.acting=single or mean, or train with one.")
        choice = self.rank(features, candidates, critic).argmax(dim=0)
        return candidates[choice, torch.arange(candidates.shape[1], device=candidates.device)]

    def rank(
        self, features: Float[Tensor, "B F"], candidates: Float[Tensor, "N B A"], critic: Critic
    ) -> Float[Tensor, "N B"]:
        """Return the score of each candidate by the critic and aggregation of the configuration."""
        config = self.config
        assert isinstance(config, RankingPolicyConfig)
        value = critic.target_q if config.ranking_critic == "target" else critic.q
        qs = value(features.expand(len(candidates), *features.shape), candidates)
        return qs.mean(dim=0) if config.ranking_agg == "mean" else qs.amin(dim=0)

    # Learning

    def require(self, critic: Critic | None) -> Critic:
        """Return the critic.

        Raises:
            ConfigError: if there is none.
        """
        if critic is None:
            raise ConfigError(_without_critic(type(self)))
        return critic

    def initial_state(self) -> dict[str, Tensor]:
        """The policy's explicit state at the start: what changes in training besides parameters."""
        return {}

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator, *, progress: float = 1.0) -> Any:
        """Draw every random number that `loss` needs for n rows, at a share `progress` of training."""

    @abstractmethod
    def loss(self, batch: Batch, critic: Critic | None, draws: Any, state: Mapping[str, Tensor]) -> PolicyLoss:
        """Return the policy's objective.

        The agent differentiates it with respect to the policy's own parameters only: the critic is frozen.

        Args:
            batch: B transitions.
            critic: the online critic, or None.
            draws: what `draw(B, ...)` returned.
            state: the explicit state, with "step", the number of updates done before this one (0-d int64).
        """

    @abstractmethod
    def pretrain_loss(self, batch: Batch, draws: Any) -> PolicyLoss:
        """Return the objective of pretraining: the mean of the head's own loss, with the draws of `draw`."""

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move the target head, if there is one, towards the online one, in place."""
        if self.target_head is not None and (rate := self.config.target_ema_rate):
            torch._foreach_lerp_(list(self.target_head.parameters()), list(self.head.parameters()), rate)


def _without_critic(policy: type[Policy]) -> str:
    return (
        f"The policy {policy.__name__} needs a critic, but critic is null. "
        "Choose one, as in critic=td, or policy=behaviour_cloning."
    )


def sample_candidates(
    head: GenerativeHead, features: Float[Tensor, "B F"], noise: Float[Tensor, "N B ..."]
) -> Float[Tensor, "N B A"]:
    """Return one action per noise, not clipped."""
    return head.sample(features.expand(len(noise), *features.shape), noise)


def draw_for_head(head: GenerativeHead, n: int, generator: torch.Generator, progress: float) -> Any:
    """Draw what the head's loss needs; a head with a curriculum is told how far training is."""
    if isinstance(head, HasCurriculum):
        return head.draw_at(progress, n, generator)
    return head.draw(n, generator)


def draws_follow_progress(head: GenerativeHead) -> bool:
    """Whether a head's draws depend on how far training is, besides the generator."""
    return isinstance(head, HasCurriculum) and getattr(head, "follows_progress", True)


def cloning_loss(head: GenerativeHead, batch: Batch, head_draws: Any) -> PolicyLoss:
    """Mean of the head's loss over the batch: behaviour cloning."""
    fit = head.loss(batch.features, batch.actions, head_draws)
    loss = fit.per_sample.mean()
    metrics = {"bc_loss": loss.detach()} | {f"head/{name}": value for name, value in fit.metrics.items()}
    return PolicyLoss(loss, metrics, {})


def cloning_formulas(of_head: Mapping[str, str]) -> dict[str, str]:
    """What each metric of `cloning_loss` is."""
    return {"bc_loss": "mean over batch of the head's loss"} | {f"head/{name}": text for name, text in of_head.items()}
