"""Learning online: an agent acts in its task's environment and learns from what it meets there."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from genpolicy.data.dataset import ACTION_EPSILON
from genpolicy.data.replay import ReplaySampler
from genpolicy.errors import ConfigError, GenpolicyError, NonFiniteError
from genpolicy.options import Options, option
from genpolicy.training.agent import Agent

if TYPE_CHECKING:
    import gymnasium

logger = logging.getLogger(__name__)

_SEEDS = 0x6F6E6C696E65  # "online": keeps the seeds of these episodes apart from those of evaluations
_NONE = float("-inf")  # a checkpoint's tensors may hold infinities, but no NaN


METRIC_FORMULAS = {
    "exploration/return": "undiscounted sum of the environment's rewards in the episode that finished last",
    "exploration/length": "its number of environment steps",
    "exploration/success": "1 if its last step was a success, else 0, where the environment reports it",
    "exploration/episodes": "number of finished episodes",
}
"""What the metrics of exploration are, by name."""


@dataclass(frozen=True)
class OnlineConfig(Options):
    """How the online phase goes; `trainer.online_steps` is its length."""

    sampling: Literal["append", "balanced", "online"] = option(
        "append",
        "append: batches are uniform over the dataset and what was added to it; balanced: half dataset, half online "
        "(RLPD); online: online transitions alone",
    )
    updates_per_step: int = option(1, "updates per environment step, the update-to-data ratio (RLPD: 20)", minimum=1)
    policy_updates: Literal["all", "last"] = option(
        "all",
        "which of these updates are of the policy too; last: the others train the critic and its target alone (RLPD)",
    )
    random_steps: int = option(
        0, "environment steps with uniformly random actions and no update before the others (RLPD: 5000)", minimum=0
    )
    temperature: float = option(
        1.0, "policy.temperature while exploring: 1 acts with the policy's own randomness", minimum=0
    )


class Interaction:
    """One environment, in which an agent takes a step and then learns from the replay.

    Episode k starts from a seed made of (seed, k) alone. What happened in it is in the replay, so a checkpoint needs
    no state of the simulator: to go on, the episode is started again and its actions so far are repeated.

    Actions are those of `Agent.act` from the agent's own generator, clipped to [-1 + 1e-5, 1 - 1e-5] as the data's
    are. A chunk is executed to its end or to the episode's before the next one is asked for. The mask is 0 where the
    environment terminates, and 1 where it only truncates.

    Args:
        agent: acts and learns.
        sampler: batches; its store takes the transitions.
        env: from `make_env`; closed by the caller.
        config: see there.
        reward_shift: is added to the environment's rewards, as the loader of the data does.
        seed: of episodes and random actions.
    """

    def __init__(
        self,
        agent: Agent,
        sampler: ReplaySampler,
        env: "gymnasium.Env",
        *,
        config: OnlineConfig,
        reward_shift: float = 0.0,
        seed: int = 0,
    ):
        self.agent = agent
        self.sampler = sampler
        self.env = env
        self.config = config
        self.reward_shift = reward_shift
        self.seed = seed
        self.steps = 0
        self._finished = 0
        self._begun = False  # whether the simulator is in the store's running episode
        self._planned = np.zeros((0, agent.action_dim), np.float32)
        self._observation = np.zeros(agent.observation_dim, np.float32)
        self._return = 0.0
        self._last = {"return": 0.0, "length": 0.0, "success": _NONE}
        self._generator = torch.Generator().manual_seed(seed)

    def advance(self) -> dict[str, Tensor]:
        """Take one step in the environment and do the updates that belong to it.

        Returns:
            The metrics of the last updates; empty if there was none.

        Raises:
            NonFiniteError: if the agent's action is NaN or infinite.
            GenpolicyError: if the simulator fails.
        """
        self._step()
        metrics: dict[str, Tensor] = {}
        if self.steps <= self.config.random_steps or not self.sampler.ready:
            return metrics
        for left in reversed(range(self.config.updates_per_step)):
            with_policy = self.config.policy_updates == "all" or left == 0
            metrics |= self.agent.update(self.sampler.sample(), with_policy=with_policy)
        return metrics

    def metrics(self) -> dict[str, float]:
        """Return, length and success of the episode that finished last, and how many have; empty before the first.

        The return is the environment's, without shift. Success is left out where the environment reports none.
        """
        if not self._finished:
            return {}
        values = {f"exploration/{name}": value for name, value in self._last.items() if value != _NONE}
        return values | {"exploration/episodes": float(self._finished)}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the simulator and the replay, which `advance` puts together again."""
        return {
            "counts": torch.tensor([self.steps, self._finished]),
            "planned": torch.from_numpy(self._planned),
            "episode": torch.tensor([self._return, *self._last.values()], dtype=torch.float64),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.steps, self._finished = state["counts"].tolist()
        self._planned = state["planned"].numpy().copy()
        self._return, *last = state["episode"].tolist()
        self._last = dict(zip(self._last, last, strict=True))
        self._generator.set_state(state["generator"].cpu())
        self._begun = False

    def _step(self) -> None:
        store = self.sampler.store
        if not self._begun:
            self._begin()
        action = self._choose()
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise GenpolicyError(
                f"The simulator failed in the online phase: {type(error).__name__}: {error}"
            ) from error
        self._observation = np.asarray(observation, np.float32)
        self._return += float(reward)
        store.add(action, float(reward) + self.reward_shift, 0.0 if terminated else 1.0, self._observation)
        self.steps += 1
        if terminated or truncated:
            length = float(len(store.running_episode()[0]))
            success = float(info.get("success", _NONE))
            self._last = {"return": self._return, "length": length, "success": success}
            store.end()
            self._finished += 1
            self._begun = False

    def _begin(self) -> None:
        """Start an episode, or repeat the one that was running when the checkpoint was written."""
        store = self.sampler.store
        seed = np.random.SeedSequence([self.seed, _SEEDS, self._finished]).generate_state(1)
        observation, _ = self.env.reset(seed=int(seed[0]))
        if store.running:
            actions, newest = store.running_episode()
            done = False
            for action in actions.cpu().numpy():
                observation, _, terminated, truncated, _ = self.env.step(action)
                done = done or terminated or truncated
            if not done and np.array_equal(np.asarray(observation, np.float32), newest.cpu().numpy()):
                self._observation, self._begun = newest.cpu().numpy(), True
                return
            logger.warning(
                "The simulator did not repeat the running episode: the run goes on with another one, but not bit for "
                "bit. Is it another version?"
            )
            observation, _ = self.env.reset(seed=int(seed[0]))
        self._observation = np.asarray(observation, np.float32)
        store.begin(self._observation)
        self._planned, self._return, self._begun = self._planned[:0], 0.0, True

    def _choose(self) -> np.ndarray:
        if self.steps < self.config.random_steps:
            uniform = torch.rand(self.agent.action_dim, generator=self._generator, dtype=torch.float32)
            return _within_bounds((2 * uniform - 1).numpy())
        if not len(self._planned):
            actions = self.agent.act(self._observation, temperature=self.config.temperature)
            if not np.isfinite(actions).all():
                raise NonFiniteError(
                    f"The policy chose the action {actions.tolist()} in the online phase. Its parameters have "
                    "diverged: lower the learning rate."
                )
            self._planned = _within_bounds(actions.reshape(-1, self.agent.action_dim))
        action, self._planned = self._planned[0], self._planned[1:]
        return action


def check_spaces(env: "gymnasium.Env", observation_shape: tuple[int, ...], action_dim: int, *, name: str) -> None:
    """Refuse an environment in which an agent trained on a dataset cannot act.

    Raises:
        ConfigError: naming both shapes.
    """
    for what, space, shape in (
        ("observations", env.observation_space, tuple(observation_shape)),
        ("actions", env.action_space, (action_dim,)),
    ):
        if space.shape != shape:
            raise ConfigError(
                f"The environment '{name}' has {what} of shape {space.shape}, the dataset {shape}. "
                "Name the task or the environment that the data belong to, or do without it (trainer.eval_every=0, "
                "trainer.online_steps=0)."
            )


def _within_bounds(actions: Any) -> np.ndarray:
    limit = 1.0 - ACTION_EPSILON
    return np.clip(np.asarray(actions, np.float32), -limit, limit)
