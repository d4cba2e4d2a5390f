"""Small Minari datasets, written with Minari's own storage as other tools do."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

OBSERVATIONS = Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = Box(-2, 2, (1,), np.float32)


def episode(steps: int, seed: int = 0, *, ended: str = "truncated", **changes: Any) -> dict[str, Any]:
    """A random episode of Pendulum's shapes; `ended` is terminated, truncated or nothing; `changes` replace arrays."""
    rng = np.random.default_rng(seed)
    flags = {name: np.zeros(steps, bool) for name in ("terminated", "truncated", "nothing")}
    flags[ended][-1:] = True
    return {
        "observations": rng.normal(size=(steps + 1, 3)),
        "actions": rng.uniform(-2, 2, size=(steps, 1)).astype(np.float32),
        "rewards": rng.normal(size=steps),
        "terminations": flags["terminated"],
        "truncations": flags["truncated"],
        "infos": {"success": rng.uniform(size=steps + 1) < 0.5, "state": {"qpos": rng.normal(size=(steps + 1, 2))}},
    } | changes


def write(
    folder: Path,
    episodes: list[dict[str, Any]],
    *,
    observations: gymnasium.Space = OBSERVATIONS,
    actions: gymnasium.Space = ACTIONS,
    env: Any = None,
    identity: str = "test/set-v0",
    **metadata: Any,
) -> Path:
    """Write a dataset into `folder`; `env` is an id or a specification, and `metadata` more of its JSON."""
    (folder / "data").mkdir(parents=True)
    spec = gymnasium.spec(env) if isinstance(env, str) else env
    storage = MinariStorage.new(folder / "data", observations, actions, spec)
    storage.update_episodes([EpisodeBuffer(**one) for one in episodes])
    file = folder / "data" / "metadata.json"
    facts = json.loads(file.read_text()) | {"dataset_id": identity, "minari_version": minari.__version__} | metadata
    file.write_text(json.dumps(facts))
    return folder


def antmaze_spec(maze: list[list[Any]], **kwargs: Any) -> Any:
    """The specification of gymnasium-robotics' AntMaze_UMaze-v4 with another map."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    spec = gymnasium.spec("AntMaze_UMaze-v4")
    return gymnasium.envs.registration.EnvSpec(
        id=spec.id,
        entry_point=spec.entry_point,
        max_episode_steps=700,
        kwargs=spec.kwargs | {"maze_map": maze, "continuing_task": True, "reset_target": False} | kwargs,
    )


def goal_episode(steps: int, success: int | None, seed: int = 0) -> dict[str, Any]:
    """A random episode of AntMaze's shapes, at the goal after `success` steps and from then on."""
    rng = np.random.default_rng(seed)
    rewards = np.zeros(steps)
    if success is not None:
        rewards[success - 1 :] = 1.0
    truncations = np.zeros(steps, bool)
    truncations[-1] = True
    sizes = {"observation": 27, "desired_goal": 2, "achieved_goal": 2}
    return {
        "observations": {key: rng.normal(size=(steps + 1, size)) for key, size in sizes.items()},
        "actions": rng.uniform(-1, 1, size=(steps, 8)).astype(np.float32),
        "rewards": rewards,
        "terminations": np.zeros(steps, bool),
        "truncations": truncations,
        "infos": None,
    }


def goal_space() -> gymnasium.spaces.Dict:
    """AntMaze's observation space."""
    sizes = {"observation": 27, "desired_goal": 2, "achieved_goal": 2}
    return gymnasium.spaces.Dict({key: Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items()})


class Unordered(gymnasium.Env):
    """An environment whose Dict is not in alphabetic order."""

    observation_space = gymnasium.spaces.Dict(OrderedDict(b=Box(-1, 1, (1,)), a=Box(-1, 1, (2,))))
    action_space = Box(-1, 1, (1,))
