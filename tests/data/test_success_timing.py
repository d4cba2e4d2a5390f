import gymnasium
import numpy as np
import pytest

from genpolicy.config import compose
from genpolicy.data import get_task
from genpolicy.data.success_timing import registered, with_success_timing
from genpolicy.envs import Evaluator, make_env
from genpolicy.training.run import _task

MAZE = get_task("pointmaze-medium-navigate-singletask-task5-v0")
CUBE = get_task("cube-single-play-singletask-task1-v0")

pytestmark = pytest.mark.filterwarnings("ignore")


def rows_from_beside_the_goal(env, steps=4):
    """Start one step outside of the goal's radius and walk into it: (reward, terminated, success) of each step."""
    env.reset(seed=0)
    inside = env.unwrapped
    goal = inside.cur_goal_xy
    inside.set_xy(goal + np.array([inside._goal_tol + 0.05, 0.0]))
    rows = []
    for _ in range(steps):
        _, reward, terminated, _, info = env.step(np.array([-1.0, 0.0], np.float32))
        rows.append((float(reward), bool(terminated), float(info["success"])))
    return rows


def test_after_the_action_success_is_one_step_earlier():
    after = rows_from_beside_the_goal(make_env(with_success_timing(MAZE, "post")))
    before = rows_from_beside_the_goal(make_env(with_success_timing(MAZE, "pre")))
    assert before[0] == (-1.0, False, 0.0)
    assert after[:-1] == before[1:]
    assert (0.0, True, 1.0) in after


@pytest.mark.parametrize("timing", ["post", "pre"])
def test_the_environment_is_ogbenchs_with_that_option(timing):
    task = with_success_timing(MAZE, timing)
    theirs = gymnasium.make(MAZE.environment, success_timing=timing)
    theirs.reset(seed=0)
    assert rows_from_beside_the_goal(make_env(task)) == rows_from_beside_the_goal(theirs)
    assert make_env(with_success_timing(CUBE, timing)).unwrapped._success_timing == timing


def test_simulator_processes_make_it_too():
    task = with_success_timing(MAZE, "post")
    with Evaluator(task, episodes=1, slots=1) as evaluator:
        result = evaluator.evaluate(lambda states, _: np.zeros((len(states), 2), np.float32), step=0)
    assert result.lengths[0] == 1000 and result.successes is not None


def test_a_task_keeps_everything_but_its_environment():
    changed = with_success_timing(MAZE, "post")
    assert changed != MAZE
    assert with_success_timing(changed, "pre") == MAZE and with_success_timing(changed, "post") == changed
    assert registered(changed.environment) == (MAZE.environment, {"success_timing": "post"})
    assert registered(MAZE.environment) == (MAZE.environment, {})


def test_other_sources_have_rules_of_their_own():
    task = get_task("door-human-v1")
    assert with_success_timing(task, "post") is task


def test_runs_use_the_timing_of_published_results_unless_told_otherwise():
    overrides = [f"task={MAZE.name}", "algorithm=bc"]
    assert _task(compose(overrides)) == with_success_timing(MAZE, "post")
    assert _task(compose([*overrides, "data.success_timing=pre"])) == MAZE
