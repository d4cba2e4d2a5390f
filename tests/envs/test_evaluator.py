import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from genpolicy.envs import Evaluator, make_env
from genpolicy.errors import ConfigError, GenpolicyError, NonFiniteError, ShapeError
from tests.envs.helpers import POINTMAZE, maze_solver, simulator_processes, toy_task, wait_until


@pytest.fixture(autouse=True)
def no_process_is_left_behind():
    yield
    assert simulator_processes() == []


def up(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
    return np.full((len(observations), 1), 0.25)


def drawn(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
    return np.stack([torch.rand(1, generator=generator).numpy() * 2 - 1 for generator in generators])


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_result_does_not_depend_on_the_number_of_workers(noise):
    results = []
    for workers in (1, 3):
        with Evaluator(POINTMAZE, episodes=7, workers=workers, seed=1, slots=5) as evaluator:
            results.append(evaluator.evaluate(maze_solver(noise), step=100))
            assert len(simulator_processes()) == workers
    one, three = results
    assert np.array_equal(one.returns, three.returns)
    assert np.array_equal(one.lengths, three.lengths)
    assert one.successes is not None and one.successes.all()
    assert len(set(one.lengths)) > 1 and one.lengths.max() < 200
    assert np.array_equal(one.returns, 1.0 - one.lengths)


def test_policy_sees_the_same_rows_however_many_workers_there_are():
    calls = []
    for workers in (1, 2, 4):
        seen = []
        with Evaluator(toy_task("Countdown"), episodes=9, workers=workers, slots=4) as evaluator:
            evaluator.evaluate(lambda o, g, seen=seen: (seen.append(o.copy()), drawn(o, g))[1], step=0)
        calls.append(seen)
    for other in calls[1:]:
        assert len(calls[0]) == len(other)
        assert all(np.array_equal(a, b) for a, b in zip(calls[0], other, strict=True))
    assert max(len(rows) for rows in calls[0]) == 4 and len(calls[0][-1]) < 4


def test_episodes_agree_with_a_plain_loop_over_one_environment():
    task, step, seed = toy_task("Countdown"), 7, 5
    with Evaluator(task, episodes=6, workers=2, seed=seed, slots=3) as evaluator:
        found = evaluator.evaluate(drawn, step=step)
    env = make_env(task)
    for episode in range(6):
        environment_seed, policy_seed = np.random.SeedSequence((seed, step, episode)).generate_state(2)
        generator = torch.Generator().manual_seed(int(policy_seed))
        observation, _ = env.reset(seed=int(environment_seed))
        total, length, done, success = 0.0, 0, False, 0.0
        while not done:
            observation, reward, done, _, info = env.step(drawn(observation[None], [generator])[0])
            total, length, success = total + reward, length + 1, info["success"]
        assert found.returns[episode] == pytest.approx(total, rel=1e-12)
        assert found.lengths[episode] == length
        assert found.successes[episode] == bool(success)
    assert 0 < found.successes.sum() < 6


def test_chunks_are_executed_open_loop_and_end_with_their_episode():
    seen = []

    def plan(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
        seen.append(len(observations))
        return np.stack([2 * torch.rand(4, 1, generator=generator).numpy() - 1 for generator in generators])

    task = toy_task("Countdown")
    with Evaluator(task, episodes=6, workers=2, seed=5, slots=3) as evaluator:
        found = evaluator.evaluate(plan, step=7)
    assert sum(seen) == sum(-(-length // 4) for length in found.lengths)
    env = make_env(task)
    for episode in range(6):
        environment_seed, policy_seed = np.random.SeedSequence((5, 7, episode)).generate_state(2)
        generator = torch.Generator().manual_seed(int(policy_seed))
        observation, _ = env.reset(seed=int(environment_seed))
        total, length, done, planned = 0.0, 0, False, []
        while not done:
            planned = planned or list(plan(observation[None], [generator])[0])
            observation, reward, done, _, _ = env.step(planned.pop(0))
            total, length = total + reward, length + 1
        assert found.returns[episode] == pytest.approx(total, rel=1e-12)
        assert found.lengths[episode] == length


def test_seed_and_step_choose_the_episodes_and_processes_are_reused():
    with Evaluator(toy_task("Countdown"), episodes=8, workers=2, seed=0) as evaluator:
        first = evaluator.evaluate(drawn, step=1)
        processes = simulator_processes()
        other_step = evaluator.evaluate(drawn, step=2)
        again = evaluator.evaluate(drawn, step=1)
        assert sorted(simulator_processes()) == sorted(processes) and len(processes) == 2
    with Evaluator(toy_task("Countdown"), episodes=8, seed=1) as evaluator:
        other_seed = evaluator.evaluate(drawn, step=1)
    assert np.array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other_step.returns)
    assert not np.array_equal(first.returns, other_seed.returns)


def test_global_generators_of_the_caller_are_untouched():
    np.random.seed(0)
    np.random.randn()  # leaves a second Gaussian waiting in the generator
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    with Evaluator(POINTMAZE, episodes=2, workers=2) as evaluator:
        evaluator.evaluate(maze_solver(0.1), step=0)
    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()
    assert numpy_state[1].tobytes() == states[0][1].tobytes() and numpy_state[2] == states[0][2]
    assert python_state == states[1]
    assert torch.equal(torch_state, states[2])


def test_metrics_are_means_and_success_is_left_out_where_there_is_none():
    with Evaluator(toy_task("Countdown"), episodes=5) as evaluator:
        found = evaluator.evaluate(up, step=0)
    metrics = found.metrics()
    assert metrics["evaluation/length"] == found.lengths.mean() and 3 <= metrics["evaluation/length"] <= 9
    assert metrics["evaluation/return"] == pytest.approx(0.5 * found.lengths.mean())
    assert metrics["evaluation/success"] == 1.0
    assert metrics["evaluation/episodes"] == 5
    assert 0 < metrics["evaluation/seconds"] == found.seconds
    with Evaluator(toy_task("Plain"), episodes=2) as evaluator:
        found = evaluator.evaluate(up, step=0)
    assert found.successes is None
    assert "evaluation/success" not in found.metrics()


def test_progress_counts_finished_episodes():
    calls = []
    with Evaluator(toy_task("Countdown"), episodes=6, slots=2) as evaluator:
        evaluator.evaluate(up, step=0, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert {total for _, total in calls} == {6}


def test_actions_outside_the_bounds_are_clipped():
    with Evaluator(toy_task("Countdown"), episodes=2) as evaluator:
        found = evaluator.evaluate(lambda o, g: np.full((len(o), 1), 50.0), step=0)
    assert np.array_equal(found.returns, 2.0 * found.lengths)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda o, g: np.zeros((len(o), 3)), ShapeError, r"shape \(2, 3\) for 2 observations, expected \(2, 1\)"),
        (lambda o, g: np.zeros(len(o)), ShapeError, r"shape \(2,\)"),
        (lambda o, g: np.full((len(o), 1), np.nan), NonFiniteError, "NaN or infinite actions"),
    ],
)
def test_unusable_actions_are_explained_and_the_evaluator_recovers(act, error, message):
    with Evaluator(toy_task("Countdown"), episodes=2, workers=2) as evaluator:
        with pytest.raises(error, match=message):
            evaluator.evaluate(act, step=0)
        assert simulator_processes() == []
        assert len(evaluator.evaluate(up, step=0).returns) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Killed", "ended by signal SIGKILL.*fewer evaluation workers"),
        ("Exits", "ended with exit code 7"),
        ("Fails", "failed: CannotBePickled: the robot fell apart at 100%"),
    ],
)
def test_simulator_that_dies_gives_one_error_and_no_hang(name, message, capfd):
    start = time.monotonic()
    with Evaluator(toy_task(name), episodes=2, workers=2) as evaluator, pytest.raises(GenpolicyError, match=message):
        evaluator.evaluate(up, step=0)
    assert time.monotonic() - start < 30
    assert capfd.readouterr().err == ""


def test_process_killed_between_evaluations_gives_an_error_then_a_fresh_start():
    with Evaluator(toy_task("Countdown"), episodes=2, workers=2) as evaluator:
        first = evaluator.evaluate(up, step=0)
        os.kill(simulator_processes()[0], signal.SIGKILL)
        with pytest.raises(GenpolicyError, match="SIGKILL"):
            evaluator.evaluate(up, step=0)
        assert np.array_equal(evaluator.evaluate(up, step=0).returns, first.returns)


def test_interrupt_in_the_policy_passes_through_and_ends_the_processes():
    def interrupted(observations, generators):
        raise KeyboardInterrupt

    evaluator = Evaluator(toy_task("Countdown"), episodes=2, workers=2)
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(interrupted, step=0)
    assert simulator_processes() == []


def test_close_ends_stopped_processes_too_and_may_be_repeated():
    evaluator = Evaluator(toy_task("Countdown"), episodes=2, workers=2)
    evaluator.close()
    evaluator.evaluate(up, step=0)
    for process in simulator_processes():
        os.kill(process, signal.SIGSTOP)
    evaluator.close()
    evaluator.close()
    assert simulator_processes() == []


def test_forgotten_evaluator_takes_its_processes_with_it():
    evaluator = Evaluator(toy_task("Countdown"), episodes=2, workers=2)
    evaluator.evaluate(up, step=0)
    assert len(simulator_processes()) == 2
    del evaluator
    assert wait_until(lambda: simulator_processes() == [], 5)


def test_simulator_processes_have_not_loaded_torch():
    with Evaluator(POINTMAZE, episodes=1) as evaluator:
        evaluator.evaluate(maze_solver(), step=0)
        (process,) = simulator_processes()
        with open(f"/proc/{process}/maps") as maps:
            libraries = maps.read()
    assert "mujoco" in libraries
    assert "torch" not in libraries


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"workers": 0}, {"seed": -1}, {"slots": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} must be at least"):
        Evaluator(POINTMAZE, **{"episodes": 1, **wrong})


def test_policies_evaluated_together_meet_what_they_would_meet_alone():
    policies = [maze_solver(0.0), maze_solver(0.5), maze_solver(0.9)]
    with Evaluator(POINTMAZE, episodes=4, workers=2, seed=9, slots=5) as evaluator:
        together = evaluator.evaluate_all(policies, seeds=[1, 2, 2], step=100)
    for policy, seed, found in zip(policies, (1, 2, 2), together, strict=True):
        with Evaluator(POINTMAZE, episodes=4, workers=1, seed=seed) as evaluator:
            alone = evaluator.evaluate(policy, step=100)
        assert np.array_equal(found.returns, alone.returns)
        assert np.array_equal(found.lengths, alone.lengths)
        assert np.array_equal(found.successes, alone.successes)
    assert not np.array_equal(together[1].lengths, together[2].lengths)
