"""Score a policy in the simulator: episodes in parallel processes, with seeds of their own."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from genpolicy.envs.rendering import observes_images, select_renderer
from genpolicy.envs.simulators import SimulatorPool
from genpolicy.errors import ConfigError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    import torch

    from genpolicy.data.tasks import Task

    Act = Callable[[np.ndarray, list[torch.Generator]], np.ndarray]
    """Acts on observations with one generator per row; see `Agent.act`."""

logger = logging.getLogger(__name__)


METRIC_FORMULAS = {
    "evaluation/return": "mean over episodes of the undiscounted sum of rewards",
    "evaluation/success": "share of episodes whose last step was a success, where the environment reports it",
    "evaluation/score": "mean over episodes of 100 (return - low) / (high - low), with D4RL's returns of its random "
    "policy (low) and its expert (high), where the task has them",
    "evaluation/length": "mean over episodes of the number of environment steps",
    "evaluation/episodes": "number of episodes",
    "evaluation/seconds": "wall-clock time of the evaluation",
}
"""What an evaluation's metrics are, by name."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, one entry per episode.

    Attributes:
        returns: undiscounted sums of rewards, float64 (episodes,).
        lengths: environment steps, int64 (episodes,).
        successes: whether the last step was a success, bool (episodes,); None if the environment has no success.
        scores: normalised returns, 0 to 100 between the task's reference returns, float64 (episodes,); None if the
            task has none.
        seconds: wall-clock time of the whole evaluation.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None
    seconds: float
    scores: np.ndarray | None = None

    def metrics(self) -> dict[str, float]:
        """Means over the episodes, ready to be logged."""
        metrics = {"evaluation/return": float(self.returns.mean())}
        if self.successes is not None:
            metrics["evaluation/success"] = float(self.successes.mean())
        if self.scores is not None:
            metrics["evaluation/score"] = float(self.scores.mean())
        return metrics | {
            "evaluation/length": float(self.lengths.mean()),
            "evaluation/episodes": float(len(self.returns)),
            "evaluation/seconds": self.seconds,
        }


class Evaluator:
    """Runs a policy for a number of episodes in simulator processes, which start once and are reused.

    An episode's environment seed and the generator that its policy draws from come from (seed, step, episode) alone,
    and each policy call sees the same episodes in the same order however many processes there are. So the result
    depends neither on `workers` nor on training, and no global generator is read or changed.

    Args:
        task: where to evaluate.
        episodes: number of episodes per evaluation.
        workers: number of simulator processes, at most; about the number of free cores.
        seed: seed of all evaluations.
        slots: number of episodes that run at the same time, at most, shared out among the processes. More make better
            use of each policy call; each takes about 2 MB in a maze and 150 MB with the robot arm.
        frame_stack: how many of an episode's latest observations the policy sees, along the last axis, oldest first;
            at its start the first one is repeated.

    Raises:
        ConfigError: if `episodes`, `workers`, `slots` or `frame_stack` is below 1 or `seed` is negative.
    """

    def __init__(
        self,
        task: "Task",
        *,
        episodes: int,
        workers: int = 1,
        seed: int = 0,
        slots: int = 10,
        frame_stack: int = 1,
    ):
        limits = (("episodes", episodes, 1), ("workers", workers, 1), ("seed", seed, 0), ("slots", slots, 1))
        limits += (("frame_stack", frame_stack, 1),)
        for name, value, least in limits:
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}.")
        self.task = task
        self.episodes = episodes
        self.workers = workers
        self.slots = min(slots, episodes)
        self.seed = seed
        self.frame_stack = frame_stack
        self._pool: SimulatorPool | None = None

    def evaluate(self, act: "Act", *, step: int, progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Run all episodes with a policy.

        Args:
            act: maps observations, float32 (n, O) or images uint8 (n, H, W, C), and n generators, one per row, to
                actions (n, A), or to chunks of h actions (n, h, A), which are executed in order before it is asked
                again. Only episodes that still run are asked for: n falls towards the end. Actions are clipped to
                [-1, 1].
            step: optimiser step of the policy; another step means other episodes.
            progress: called with (episodes finished, episodes in all) whenever the first number changes.

        Returns:
            The outcome of each episode, in the order of their numbers.

        Raises:
            ShapeError: if `act` returns something of another shape than (n, A) or (n, h, A).
            NonFiniteError: if an action is NaN or infinite.
            GenpolicyError: if the simulator fails or one of its processes dies, or observations are images and nothing
                can render them.

        After any exception, KeyboardInterrupt included, the processes are gone; the next call starts new ones.
        """
        return self.evaluate_all([act], seeds=[self.seed], step=step, progress=progress)[0]

    def evaluate_all(
        self,
        acts: "Sequence[Act]",
        *,
        seeds: Sequence[int],
        step: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Evaluation]:
        """Run all episodes of several policies side by side, in the same simulators.

        Args:
            acts: the policies.
            seeds: of each policy's evaluation, in place of the evaluator's; its episodes are those it would meet alone.
            step: as in `evaluate`.
            progress: likewise, with the episodes of all policies.

        Returns:
            The outcomes of each policy; `seconds` is the time of all of them.

        Raises:
            ShapeError, NonFiniteError, GenpolicyError: as `evaluate` does.
        """
        n = len(acts)
        episodes = [Episode(seed, step, index) for index in range(self.episodes) for seed in seeds]

        def act(seen: np.ndarray, generators: "list[torch.Generator]", asking: np.ndarray) -> list[np.ndarray]:
            chunks: dict[int, np.ndarray] = {}
            for policy in np.unique(asking % n):
                rows = np.flatnonzero(asking % n == policy)
                actions = check_actions(
                    acts[policy](seen[rows], [generators[row] for row in rows]), len(rows), action_dim
                )
                chunks |= dict(zip(rows.tolist(), actions, strict=True))
            return [chunks[row] for row in range(len(asking))]

        start = time.perf_counter()
        try:
            if self._pool is None:
                if observes_images(self.task.environment):
                    select_renderer()
                self._pool = SimulatorPool(self.task.environment, slots=self.slots, workers=self.workers)
                logger.debug("Simulators ready after %.1f s", time.perf_counter() - start)
            action_dim = self._pool.action_dim
            returns, lengths, success = run_episodes(
                self._pool, act, episodes, frame_stack=self.frame_stack, progress=progress
            )
        except BaseException:
            self.close()
            raise
        seconds = time.perf_counter() - start
        return [
            Evaluation(
                returns=returns[policy::n],
                lengths=lengths[policy::n],
                successes=None if np.isnan(success).any() else success[policy::n] > 0.5,
                seconds=seconds,
                scores=self._scores(returns[policy::n]),
            )
            for policy in range(n)
        ]

    def _scores(self, returns: np.ndarray) -> np.ndarray | None:
        """Normalised returns, as D4RL (arXiv:2004.07219, section 4) defines them."""
        if self.task.reference_returns is None:
            return None
        low, high = self.task.reference_returns
        return 100 * (returns - low) / (high - low)

    def close(self) -> None:
        """End the simulator processes; may be called at any time and more than once."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Episode(NamedTuple):
    """What the seeds of an episode are made of."""

    seed: int
    """Of the evaluation."""
    step: int
    """Optimiser step of the policy."""
    index: int
    """Number of the episode within the evaluation."""


def run_episodes(
    pool: SimulatorPool,
    act: "Callable[[np.ndarray, list[torch.Generator], np.ndarray], Iterable[np.ndarray]]",
    episodes: Sequence[Episode],
    *,
    frame_stack: int = 1,
    progress: Callable[[int, int], None] | None = None,
    on_frame: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run episodes on the slots of `pool`, refilling slots in order as they fall free.

    Args:
        pool: the simulators.
        act: maps n observations, n generators and the n places (n,) in `episodes` to n chunks (h, A).
        episodes: what to run.
        frame_stack: as in :class:`Evaluator`.
        progress: as in :meth:`Evaluator.evaluate`.
        on_frame: called with each new frame of a rendering pool.

    Returns:
        Return, length and last reported success (NaN if none), one for each episode.
    """
    import torch

    total = len(episodes)
    returns, lengths, success = np.zeros(total), np.zeros(total, np.int64), np.full(total, np.nan)
    generators: dict[int, torch.Generator] = {}
    episode_of = np.full(pool.slots, -1)
    actions = np.zeros((pool.slots, pool.action_dim), np.float32)
    planned: list[list[np.ndarray]] = [[] for _ in range(pool.slots)]  # what is left of each slot's chunk
    frames: list[deque[np.ndarray]] = [deque(maxlen=frame_stack) for _ in range(pool.slots)]
    begun = finished = 0
    while finished < total:
        free = np.flatnonzero(episode_of < 0)[: total - begun]
        if len(free):
            seeds: list[int | None] = [None] * pool.slots
            for slot in free:
                words = np.random.SeedSequence(tuple(episodes[begun])).generate_state(2)
                seeds[slot] = int(words[0])
                generators[begun] = torch.Generator().manual_seed(int(words[1]))
                episode_of[slot] = begun
                planned[slot] = []
                begun += 1
            observations = pool.begin(seeds)
            for slot in free:
                frames[slot].extend(observations[slot].copy() for _ in range(frame_stack))
            if on_frame is not None:
                on_frame(pool.frame)

        slots = np.flatnonzero(episode_of >= 0)
        running = episode_of[slots]
        asking = [slot for slot in slots if not planned[slot]]
        if asking:
            seen = np.stack([np.concatenate(frames[slot], axis=-1) for slot in asking])
            chunks = act(seen, [generators[episode_of[slot]] for slot in asking], episode_of[asking])
            for slot, chunk in zip(asking, chunks, strict=True):
                planned[slot] = list(chunk)
        for slot in slots:
            actions[slot] = planned[slot].pop(0)
        observations, rewards, done, reported = pool.advance(actions)
        for slot in slots:
            frames[slot].append(observations[slot].copy())
        if on_frame is not None:
            on_frame(pool.frame)
        returns[running] += rewards[slots]
        lengths[running] += 1
        success[running] = reported[slots]
        if done.any():
            episode_of[done] = -1
            finished += int(done.sum())
            if progress is not None:
                progress(finished, total)
    return returns, lengths, success


def check_actions(actions: np.ndarray, n: int, action_dim: int) -> np.ndarray:
    """Chunks of actions (n, h, A), clipped to [-1, 1] as OGBench's reference evaluation does, or an error."""
    actions = np.asarray(actions, np.float32)
    if actions.ndim not in (2, 3) or (actions.shape[0], actions.shape[-1]) != (n, action_dim) or actions.size == 0:
        raise ShapeError(
            f"The policy returned actions of shape {actions.shape} for {n} observations, expected {(n, action_dim)}: "
            f"one row per observation, one column per action dimension; or chunks of h actions, ({n}, h, {action_dim})."
        )
    if not np.isfinite(actions).all():
        raise NonFiniteError(
            "The policy returned NaN or infinite actions during evaluation. Its parameters have diverged: "
            "go back to an earlier checkpoint and lower the learning rate."
        )
    return np.clip(actions, -1.0, 1.0).reshape(n, -1, action_dim)
