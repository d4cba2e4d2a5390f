import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from genpolicy.data.tasks import get_task
from genpolicy.envs import make_env
from genpolicy.envs.make import make_environment
from genpolicy.errors import ConfigError
from tests.envs.helpers import POINTMAZE, REPOSITORY, toy_task


def global_state() -> tuple:
    kind, words, position, *_ = np.random.get_state()
    return kind, words.tobytes(), position


def episode(env: gymnasium.Env, seed: int | None, steps: int = 20) -> np.ndarray:
    observations = [env.reset(seed=seed)[0]]
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    return np.stack(observations + [env.step(action)[0] for action in actions])


@pytest.mark.parametrize(
    ("name", "observation", "action"),
    [
        ("pointmaze-medium-navigate-singletask-task5-v0", 2, 2),
        ("antmaze-large-navigate-singletask-v0", 29, 8),
        ("cube-single-play-singletask-v0", 28, 5),
    ],
)
def test_spaces_are_flat_float32_and_actions_within_one(name, observation, action):
    env = make_env(get_task(name))
    assert env.observation_space == Box(-np.inf, np.inf, (observation,), np.float32)
    assert env.action_space == Box(-1.0, 1.0, (action,), np.float32)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(env.action_space.sample())
    assert first.dtype == second.dtype == np.float32 and first.shape == second.shape == (observation,)


@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-medium-navigate-singletask-task5-v0",
        "pointmaze-teleport-navigate-singletask-task1-v0",
        "antmaze-medium-navigate-singletask-v0",
        "cube-double-play-singletask-v0",
    ],
)
def test_seeded_episode_repeats_and_leaves_the_global_generator_alone(name):
    np.random.seed(11)
    before = global_state()
    env = make_env(get_task(name))
    first = episode(env, seed=3)
    again = episode(env, seed=3)
    other = episode(env, seed=4)
    assert global_state() == before
    np.random.seed(12)
    elsewhere = episode(make_env(get_task(name)), seed=3)
    assert np.array_equal(first, again)
    assert np.array_equal(first, elsewhere)
    assert not np.array_equal(first[0], other[0])


def test_environments_in_one_process_do_not_disturb_each_other():
    alone = episode(make_env(toy_task("Countdown")), seed=5, steps=3)
    one, two = make_env(toy_task("Countdown")), make_env(toy_task("Countdown"))
    observations = [one.reset(seed=5)[0]]
    two.reset(seed=6)
    for action in np.random.default_rng(0).uniform(-1, 1, (3, 1)).astype(np.float32):
        two.step(action)
        observations.append(one.step(action)[0])
    assert np.array_equal(alone, np.stack(observations))


def test_foreign_action_bounds_are_rescaled_and_observations_flattened():
    env = make_env(toy_task("Countdown"))
    assert env.action_space == Box(-1.0, 1.0, (1,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,) and observation.dtype == np.float32
    assert env.step(np.array([0.25], np.float32))[1] == 0.5


def test_seed_of_make_env_is_that_of_the_first_reset_only():
    env = make_env(POINTMAZE, seed=3)
    first, second = env.reset()[0], env.reset()[0]
    assert np.array_equal(first, make_env(POINTMAZE).reset(seed=3)[0])
    assert not np.array_equal(first, second)


def test_unknown_environment_is_named():
    with pytest.raises(ConfigError, match=r"'pointmaze-tiny-singletask-v0'.*ogbench"):
        make_environment("pointmaze-tiny-singletask-v0")


def test_unbounded_actions_are_refused():
    gymnasium.register("Unbounded-v0", entry_point=lambda: Unbounded())
    with pytest.raises(ConfigError, match=r"'Unbounded-v0' has the action space Discrete\(3\)"):
        make_environment("Unbounded-v0")


class Unbounded(gymnasium.Env):
    observation_space = Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(3)


def test_modules_of_the_simulator_processes_do_not_import_torch():
    code = "import sys, genpolicy.envs.make, genpolicy.envs.simulators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
