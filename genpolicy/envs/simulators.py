"""Simulator processes: several environments in each, one policy call for all of them per step.

The half of this module that runs inside the processes (:class:`EnvironmentGroup`) never imports torch.
"""

import contextlib
import functools
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import _async_worker

from genpolicy.envs.make import make_environment
from genpolicy.envs.processes import undisturbed_start
from genpolicy.errors import GenpolicyError


class EnvironmentGroup(gymnasium.Env):
    """Several environments that one process steps in turn, dressed as one environment.

    AsyncVectorEnv gives each environment a process of its own. Here it gets one group per process, so that one
    message carries the actions of all of the group's environments.

    Args:
        environment: gymnasium id.
        slots: number of environments, K. All but the first are made when they are first needed.
        first: number of the group's first slot among the slots of all groups.
        render: whether ``info["frame"]`` shall hold a picture of slot 0.
    """

    def __init__(self, environment: str, *, slots: int, first: int, render: bool):
        self._make = functools.partial(make_environment, environment, render=render)
        self._first = first
        self._render_frames = render
        self._envs = {0: self._make()}
        observations, actions = self._envs[0].observation_space, self._envs[0].action_space
        assert isinstance(observations, Box) and isinstance(actions, Box)
        low, high = (0, 255) if observations.dtype == np.uint8 else (-np.inf, np.inf)
        self.observation_space = Box(low, high, (slots, *observations.shape), observations.dtype.type)
        self.action_space = Box(-1.0, 1.0, (slots, *actions.shape), np.float32)
        self._slots = slots
        self._observations = np.zeros(self.observation_space.shape, observations.dtype)
        self._running = np.zeros(slots, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode in each slot for which ``options["seeds"]`` (over the slots of all groups) has a seed."""
        seeds = (options or {})["seeds"][self._first : self._first + self._slots]
        return self._observations, self._guard(self._start, seeds)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Step the slots whose episode runs, (K, A) -> (K, \\*O); rewards and ends of episodes are in the info."""
        return self._observations, 0.0, False, False, self._guard(self._advance, action)

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs.values():
            env.close()

    def _start(self, seeds: Sequence[int | None]) -> dict:
        for slot, seed in enumerate(seeds):
            if seed is None:
                continue
            if slot not in self._envs:
                self._envs[slot] = self._make()
            self._observations[slot], _ = self._envs[slot].reset(seed=seed)
            self._running[slot] = True
        return {}

    def _advance(self, action: np.ndarray) -> dict:
        rewards, success = np.zeros(self._slots), np.full(self._slots, np.nan)
        done = np.zeros(self._slots, bool)
        for slot in np.flatnonzero(self._running).tolist():
            observation, reward, terminated, truncated, info = self._envs[slot].step(action[slot])
            self._observations[slot] = observation
            rewards[slot] = reward
            done[slot] = terminated or truncated
            success[slot] = info.get("success", np.nan)
        self._running &= ~done
        return {"rewards": rewards, "done": done, "success": success}

    def _guard(self, work: Callable[[Any], dict], argument: Any) -> dict:
        # An error travels as text: gymnasium would send the exception object, and hang if it cannot be pickled.
        try:
            info = work(argument)
            if self._render_frames:
                info["frame"] = self._envs[0].render()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return info


class SimulatorPool(AsyncVectorEnv):
    """Environments in parallel processes, addressed by slot numbers 0 .. S-1.

    The processes start at once, share observations through memory, ignore Ctrl-C, import neither torch nor the
    calling script, and end with :meth:`close`, with this object, or with the process that made them.

    Args:
        environment: gymnasium id.
        slots: number of environments, S.
        workers: number of processes, at most; each gets the same number of slots.
        render: whether :attr:`frame` shall show slot 0.

    Raises:
        GenpolicyError: if a process does not come up.
    """

    frame: np.ndarray = np.empty((0, 0, 3), np.uint8)
    """The latest picture of slot 0, uint8 (H, W, 3), if the pool renders."""

    def __init__(self, environment: str, *, slots: int, workers: int, render: bool = False):
        self.environment = environment
        self.slots = slots
        share = -(-slots // workers)
        groups = [
            functools.partial(EnvironmentGroup, environment, slots=share, first=first, render=render)
            for first in range(0, slots, share)
        ]
        try:
            with undisturbed_start():
                super().__init__(
                    groups,
                    context="spawn",
                    worker=_simulate,
                    copy=False,
                    autoreset_mode=AutoresetMode.DISABLED,
                )
        except (EOFError, ConnectionError) as error:
            obituary = self._obituary()
            self.close()
            raise GenpolicyError(obituary) from error
        except BaseException:
            self.close()
            raise
        _, self.action_dim = self.single_action_space.shape or (0, 0)

    def begin(self, seeds: Sequence[int | None]) -> np.ndarray:
        """Start an episode in each slot that has a seed; the others go on.

        Args:
            seeds: S seeds, None where nothing starts.

        Returns:
            The observations of all slots, (S, O), or images (S, H, W, C).
        """
        observations, _ = self._ask(lambda: self.reset(options={"seeds": list(seeds)}))
        return observations

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step all slots whose episode runs.

        Args:
            actions: (S, A) in [-1, 1]; rows of slots without an episode are ignored.

        Returns:
            Observations (S, O), rewards (S,), whether the episode ended with this step (S,), and the success
            that the environment reports (S,), NaN if it reports none. A view: valid until the next call.
        """
        batch = np.zeros(self.action_space.shape or (), np.float32)
        batch.reshape(-1, self.action_dim)[: self.slots] = actions
        observations, info = self._ask(lambda: self.step(batch))
        rewards, done, success = (info[key].reshape(-1)[: self.slots] for key in ("rewards", "done", "success"))
        return observations, rewards, done, success

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End all processes, whatever they are doing. Called by ``close``; both arguments are ignored."""
        started = [process for process in getattr(self, "processes", []) if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()
        for pipe in getattr(self, "parent_pipes", []):
            pipe.close()

    def _ask(self, call: Callable[[], tuple]) -> tuple[np.ndarray, dict]:
        try:
            observations, *_, info = call()
        except (EOFError, ConnectionError) as error:
            raise GenpolicyError(self._obituary()) from error
        for message in info.get("error", []):
            if message is not None:
                raise GenpolicyError(f"The simulator of '{self.environment}' failed: {message}")
        if "frame" in info:
            self.frame = info["frame"][0]
        return observations.reshape(-1, *observations.shape[2:])[: self.slots], info

    def _obituary(self) -> str:
        """What to say when a connection shows that a process is gone."""
        started = [process for process in self.processes if process.pid is not None]
        ended = multiprocessing.connection.wait([process.sentinel for process in started], timeout=5)
        for process in started:
            if process.sentinel in ended:  # its pipes close a moment before its exit code can be read
                process.join(timeout=5)
        codes = [process.exitcode for process in started if process.exitcode is not None]
        cause = "for an unknown reason"
        if codes:
            cause = f"by signal {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"with exit code {codes[0]}"
        return (
            f"A simulator process of '{self.environment}' ended {cause} ({len(codes)} of {len(started)} are gone). "
            "If memory ran out, use fewer evaluation workers; else see its message above, if any."
        )


def _simulate(*arguments: Any) -> None:
    """Gymnasium's own worker, but silent when the process that it works for was killed."""
    with contextlib.suppress(ConnectionError):
        _async_worker(*arguments)
