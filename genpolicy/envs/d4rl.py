"""The environments that D4RL's tasks are scored in, registered with Gymnasium under ``d4rl/``.

============================  ====================================================  ======================
id                            made of                                               differs from D4RL's in
============================  ====================================================  ======================
``d4rl/{pen, hammer, ...}``   gymnasium-robotics' Adroit hand, rewards, ends and    MuJoCo's version
                              lengths put right (`genpolicy.envs.adroit`)
``d4rl/{hopper, ...}``        Gymnasium's v4, the rules and models of gym's v2      MuJoCo's version
``d4rl/antmaze-{umaze, ...}`` OGBench's ant in D4RL's mazes                         MuJoCo's version
                              (`genpolicy.envs.antmaze`)
``d4rl/kitchen``              nothing: refused
``d4rl-legacy/NAME``          an installed d4rl package                             nothing
============================  ====================================================  ======================

Importing this module imports no simulator.
"""

import contextlib
import importlib
import io
from typing import Any

import gymnasium
import numpy as np

from genpolicy.data.d4rl_catalogue import DATASETS
from genpolicy.errors import ConfigError

ADROIT = ("pen", "hammer", "door", "relocate")
"""Adroit tasks that are made from gymnasium-robotics."""
LOCOMOTION = {
    "hopper": ("hopper_v4", "HopperEnv"),
    "halfcheetah": ("half_cheetah_v4", "HalfCheetahEnv"),
    "walker2d": ("walker2d_v4", "Walker2dEnv"),
}
"""Locomotion tasks, and the module and class of gymnasium.envs.mujoco that each is made from."""


def require(environment: str) -> None:
    """Check that an environment exists and that its packages are installed, without making it.

    Raises:
        ConfigError: if not; environments of other names are not looked at.
    """
    source, _, name = environment.partition("/")
    if source == "d4rl-legacy":
        import_d4rl()
    elif environment == "d4rl/kitchen":
        raise ConfigError(
            "D4RL's kitchen tasks cannot be scored here: FrankaKitchen of gymnasium-robotics observes positions and "
            "velocities (59 numbers), D4RL's kitchen positions and the goal (60). Train without evaluation "
            "(trainer.eval_every=0), or install the legacy d4rl package and set data.backend=d4rl."
        )
    elif source == "d4rl" and name in ADROIT:
        try:
            # It prints that its rewards differ from D4RL's, which is put right in `genpolicy.envs.adroit`.
            with contextlib.redirect_stderr(io.StringIO()):
                import gymnasium_robotics  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"The environment '{environment}' needs the package gymnasium-robotics: pip install 'genpolicy[d4rl]'."
            ) from error


def import_d4rl() -> Any:
    """Import the legacy d4rl package and return its gym.

    Raises:
        ConfigError: if it is absent, or one of its own requirements is.
    """
    try:
        import d4rl  # noqa: F401  # pyright: ignore[reportMissingImports]
        import gym  # pyright: ignore[reportMissingImports]
    except Exception as error:  # mujoco-py raises a plain Exception where MuJoCo 2.1 is missing
        reason = next(iter(str(error).strip().splitlines()), "no message").rstrip(".")
        raise ConfigError(
            f"data.backend=d4rl needs a working d4rl package, but its import failed: {type(error).__name__}: {reason}. "
            "It needs gym and mujoco-py, and that the library MuJoCo 2.1 in ~/.mujoco/mujoco210. Leave data.backend "
            "out: the same files are read without that package."
        ) from error
    return gym


def make_locomotion(name: str, **options: Any) -> gymnasium.Env:
    """Make hopper, halfcheetah or walker2d, without its time limit.

    Args:
        name: one of the three.
        options: for the simulator: ``render_mode``, ``width``, ``height``.
    """
    mujoco: Any = importlib.import_module("mujoco")
    module, cls = LOCOMOTION[name]
    simulator = getattr(importlib.import_module(f"gymnasium.envs.mujoco.{module}"), cls)
    # MuJoCo calls an attribute of the cheetah's model deprecated, in a file that it leaves in the working directory.
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return simulator(**options)
    finally:
        mujoco.set_mju_user_warning(before)


class LegacyEnv(gymnasium.Env):
    """An environment of the legacy d4rl package, spoken to in Gymnasium's way.

    Args:
        name: D4RL's id.
        render_mode: "rgb_array" or None.
        width: of a frame.
        height: of a frame.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, name: str, render_mode: str | None = None, width: int = 480, height: int = 480):
        self.render_mode, self._size = render_mode, {"width": width, "height": height}
        self._env = import_d4rl().make(name)
        observations, actions = self._env.observation_space, self._env.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, observations.shape, np.float64)
        self.action_space = gymnasium.spaces.Box(actions.low, actions.high, actions.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode."""
        if seed is not None:
            self._env.seed(seed)
        return self._env.reset(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take one step; an end by the time limit is a truncation."""
        observation, reward, done, info = self._env.step(action)
        truncated = bool(info.get("TimeLimit.truncated", False))
        return observation, float(reward), bool(done) and not truncated, truncated, {}

    def render(self) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""
        return self._env.render(mode="rgb_array", **self._size)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _refuse(environment: str, **_: Any) -> gymnasium.Env:
    require(environment)
    raise AssertionError(environment)


def _register() -> None:
    horizons = {dataset.family: dataset.horizon for dataset in DATASETS.values()}
    for name in ADROIT:
        gymnasium.register(
            f"d4rl/{name}",
            entry_point="genpolicy.envs.adroit:make_adroit",
            kwargs={"name": name},
            max_episode_steps=horizons[name],
        )
    for name in LOCOMOTION:
        gymnasium.register(
            f"d4rl/{name}", entry_point=make_locomotion, kwargs={"name": name}, max_episode_steps=horizons[name]
        )
    for maze in ("umaze", "medium", "large"):
        gymnasium.register(
            f"d4rl/antmaze-{maze}",
            entry_point="genpolicy.envs.antmaze:AntMaze",
            kwargs={"maze": maze},
            max_episode_steps=700 if maze == "umaze" else 1000,
        )
    gymnasium.register("d4rl/kitchen", entry_point=_refuse, kwargs={"environment": "d4rl/kitchen"})
    for name in DATASETS:
        gymnasium.register(f"d4rl-legacy/{name}", entry_point="genpolicy.envs.d4rl:LegacyEnv", kwargs={"name": name})


_register()
