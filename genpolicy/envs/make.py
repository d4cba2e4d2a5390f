"""Make single environments: flat float32 observations or images, actions in [-1, 1], randomness of their own.

This module runs inside simulator processes and therefore never imports torch.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from genpolicy.data.minari_metadata import PREFIX, environment_spec
from genpolicy.data.success_timing import registered
from genpolicy.envs.rendering import observes_images
from genpolicy.errors import ConfigError

if TYPE_CHECKING:
    from genpolicy.data.tasks import Task

FRAME_SIZE = 480
"""Height and width of rendered frames in pixels; a multiple of 16, as video encoders like it."""


def make_env(task: "Task", *, render: bool = False, seed: int | None = None) -> gymnasium.Env:
    """Make the environment in which a policy for `task` is scored.

    Args:
        task: an entry of :func:`genpolicy.data.get_task`.
        render: whether ``env.render()`` shall return frames, uint8 arrays of shape (480, 480, 3), or of the size of
            the observations where these are images. For frames and for such observations, on a machine without a
            display, set the environment variable ``MUJOCO_GL`` to ``egl`` or ``osmesa`` beforehand.
        seed: seed of the first reset that names none; None for a random one.

    Returns:
        An environment with observations of shape (O,), float32, or images (H, W, C), uint8, and float32 actions of
        shape (A,) in [-1, 1]. ``env.reset(seed=s)`` repeats an episode exactly, and numpy's global generator is left
        alone.

    Raises:
        ConfigError: if no simulator knows the task's environment, a package that it needs is not installed, or its
            actions are not a bounded box.
    """
    return make_environment(task.environment, render=render, seed=seed)


def make_environment(environment: str, *, render: bool = False, seed: int | None = None) -> gymnasium.Env:
    """Make an environment from its gymnasium id; arguments and result as in :func:`make_env`."""
    if not environment:
        raise ConfigError("The data name no environment to score a policy in. Name one: data.environment=ID.")
    import ogbench  # noqa: F401  registers its environments

    from genpolicy.envs import d4rl  # registers those of D4RL's tasks

    d4rl.require(environment)
    identifier, timing = registered(environment)
    wanted: Any = minari_spec(environment) if environment.startswith(PREFIX) else identifier
    options: dict[str, Any] = {**timing}
    if render and not observes_images(environment):
        options |= {"render_mode": "rgb_array", "width": FRAME_SIZE, "height": FRAME_SIZE}
    with warnings.catch_warnings():
        # On import and construction the simulators warn of a missing display and of float64 bounds.
        warnings.simplefilter("ignore")
        try:
            env = _make(wanted, options)
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise ConfigError(
                f"No simulator knows the environment '{environment}': {error} "
                "OGBench's come from the package 'ogbench' (1.2.1 or newer); MODULE:ID imports MODULE first."
            ) from error
        box = env.action_space
        if not (isinstance(box, Box) and box.is_bounded()):
            env.close()
            raise ConfigError(
                f"The environment '{environment}' has the action space {box}. Supported are bounded boxes only."
            )
        if np.any(box.low != -1.0) or np.any(box.high != 1.0):
            env = gymnasium.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
        space = _image_space(env) if observes_images(environment) else env.observation_space
        if not (isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8):
            if not (isinstance(space, Box) and len(space.shape) == 1):
                if isinstance(space, Dict) and list(space) != sorted(space):
                    raise ConfigError(
                        f"The environment '{environment}' orders its observation's parts {', '.join(space)}; the data "
                        "have them in alphabetic order. Make its observation_space from a plain dict."
                    )
                env = gymnasium.wrappers.FlattenObservation(env)
            env = gymnasium.wrappers.DtypeObservation(env, np.float32)
            space = env.observation_space
        env = OwnRandomness(env, seed)
        env.observation_space = space
        if render and not observes_images(environment) and hasattr(env.unwrapped, "model"):
            # Without a graphics card, shadows and multisampling take 95% of the time of a frame.
            quality = env.get_wrapper_attr("model").vis.quality
            quality.shadowsize = quality.offsamples = 0
    return env


def _image_space(env: gymnasium.Env) -> Box:
    """The space of an OGBench environment's images, which it would find by rendering one."""
    options = env.spec.kwargs if env.spec else {}
    return Box(0, 255, (options["height"], options["width"], 3), np.uint8)


def _make(wanted: Any, options: dict[str, Any]) -> gymnasium.Env:
    try:
        return gymnasium.make(wanted, disable_env_checker=True, **options)
    except TypeError:
        if "width" not in options:
            raise
        # Only some simulators let the size of their frames be chosen.
        sized = {key: value for key, value in options.items() if key not in ("width", "height")}
        return gymnasium.make(wanted, disable_env_checker=True, **sized)


def minari_spec(environment: str) -> Any:
    """The specification of the environment that a Minari dataset names.

    Args:
        environment: ``minari:FOLDER``.

    Raises:
        ConfigError: if it names none, or one that Gymnasium cannot read.
    """
    spec = environment_spec(Path(environment.removeprefix(PREFIX)))
    try:
        if spec is None:
            raise ValueError("it names no environment")
        return EnvSpec.from_json(json.dumps(spec))
    except ValueError as error:
        raise ConfigError(f"The environment of '{environment}' cannot be made: {error}.") from error


class OwnRandomness(gymnasium.Wrapper):
    """Gives an environment a bit generator of its own in place of numpy's global one.

    OGBench draws the start position, and in teleport mazes the exits, from ``numpy.random``. Here that means a
    generator seeded at each reset, so that an episode depends on its seed alone, whatever else runs in the
    process. The global generator is back in place after each call; a second Gaussian that it may have held
    back for its next ``randn()`` is lost.

    Args:
        env: the environment to wrap.
        seed: seed of the first reset that names none.
    """

    def __init__(self, env: gymnasium.Env, seed: int | None = None):
        super().__init__(env)
        self._first_seed = seed
        self._bits = np.random.MT19937(seed)
        # Kept, since some environments build the space anew, with warnings, at each access.
        self.action_space = env.action_space
        self._settling_actions = self.unwrapped.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start an episode; one with a seed repeats exactly."""
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        if seed is not None:
            self._bits = np.random.MT19937(seed)
            # Mazes take a few steps with actions drawn from this space while they reset.
            self._settling_actions.seed(seed)
        with self._in_place_of_global(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"gymnasium\.spaces")
            result = self.env.reset(seed=seed, options=options)
        # The robot arm settles with actions that no seed reaches; their only trace is the solver's first guess.
        data = getattr(self.unwrapped, "data", None)
        if data is not None:
            data.qacc_warmstart[:] = 0.0
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Take one step with an action of shape (A,)."""
        with self._in_place_of_global():
            return self.env.step(action)

    @contextlib.contextmanager
    def _in_place_of_global(self) -> Iterator[None]:
        theirs = get_bit_generator()
        set_bit_generator(self._bits)
        try:
            yield
        finally:
            set_bit_generator(theirs)
