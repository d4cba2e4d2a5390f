"""One simulator that collects episodes of one recipe, each fully determined by its seed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genpolicy.data.generation.manipulation import ManipulationRollout
from genpolicy.data.generation.pointmaze import PointmazeRollout
from genpolicy.data.generation.recipes import Recipe

SPLITS = ("train", "validation")


class Episode(NamedTuple):
    """Which episode of a dataset: its split (``train`` or ``validation``) and its place in it."""

    split: str
    index: int

    def seeds(self, seed: int) -> np.random.SeedSequence:
        """The source of all randomness of this episode, given the dataset's seed."""
        return np.random.SeedSequence(seed, spawn_key=(SPLITS.index(self.split), self.index))


@contextmanager
def numpy_seeded(seed: np.ndarray | int) -> Iterator[None]:
    """Seed numpy's global generator, which OGBench draws from, and give it back its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


class Simulator:
    """An OGBench environment with its oracles; starting one takes up to two seconds.

    Args:
        recipe: what to collect.
    """

    def __init__(self, recipe: Recipe):
        with numpy_seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no display, and float precision of action bounds
            import gymnasium
            import ogbench  # noqa: F401  registers the environments

            options: dict[str, Any] = {"terminate_at_goal": False, "disable_env_checker": True}
            if recipe.environment.startswith("pointmaze"):
                env: Any = gymnasium.make(recipe.environment, **options).unwrapped
                Path(env.fullpath).unlink(missing_ok=True)  # a temporary file that OGBench leaves behind
                self._rollout: PointmazeRollout | ManipulationRollout = PointmazeRollout(env, recipe)
            else:
                env = gymnasium.make(recipe.environment, mode="data_collection", **options).unwrapped
                self._rollout = ManipulationRollout(env, recipe)

    def collect(self, episode: Episode, *, seed: int, steps: int) -> dict[str, np.ndarray]:
        """Collect one episode; the result depends on the arguments only, not on earlier episodes.

        Args:
            episode: which one.
            seed: of the dataset.
            steps: rows to collect.

        Returns:
            observations (steps, O), or uint8 images (steps, H, W, C), actions (steps, A), qpos and qvel in float32,
            terminals (steps,) bool, true at the last row, and for scenes with buttons button_states (steps, buttons)
            int64.
        """
        for_numpy, for_env = episode.seeds(seed).spawn(2)
        with numpy_seeded(for_numpy.generate_state(4)):
            rows = self._rollout.episode(steps, int(for_env.generate_state(1)[0]))
        terminals = np.zeros(steps, dtype=bool)
        terminals[-1] = True
        observations = np.array(rows.pop("observations"))
        images = observations.dtype == np.uint8
        arrays = {"observations": observations if images else observations.astype(np.float32)}
        arrays["actions"] = np.array(rows.pop("actions"), dtype=np.float32)
        arrays["terminals"] = terminals
        for key, values in rows.items():
            arrays[key] = np.array(values, dtype=np.int64 if key == "button_states" else np.float32)
        return arrays
