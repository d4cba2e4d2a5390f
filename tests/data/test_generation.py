import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from genpolicy.data.generation import generatable, generate
from genpolicy.data.generation import manipulation as manipulation_module
from genpolicy.data.generation.pointmaze import PointmazeRollout, cells_at_distance, vertex_cells
from genpolicy.data.generation.recipes import RECIPES
from genpolicy.data.generation.rollout import Episode, Simulator, numpy_seeded
from genpolicy.data.generation.workers import collect
from genpolicy.errors import ConfigError, DataError, StorageError

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("GENPOLICY_DATA_DIR", REPOSITORY.parent / "shared" / "data")) / "ogbench"
MAZE = "pointmaze-medium-navigate-v0"


def real_file(name):
    path = REAL / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs {path} (set GENPOLICY_DATA_DIR)")
    return np.load(path)


def simulator(name, **changes):
    return Simulator(dataclasses.replace(RECIPES[name], **changes))


def maze_env(name):
    import gymnasium
    import ogbench  # noqa: F401

    return gymnasium.make(name, terminate_at_goal=False).unwrapped


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


# What is collected


def test_reproduces_the_published_scripts_output_exactly():
    """The real file was made by OGBench's own script from np.random.seed(0): same draws, same rows."""
    real, rows = real_file(MAZE), 3003
    rollout = PointmazeRollout(maze_env("pointmaze-medium-v0"), RECIPES[MAZE])
    with numpy_seeded(0):
        episodes = [rollout.episode(1001, seed=0) for _ in range(3)]
    for key in ("observations", "actions", "qpos"):
        collected = np.concatenate([episode[key] for episode in episodes]).astype(np.float32)
        np.testing.assert_array_equal(collected, real[key][:rows])


def test_maze_statistics_are_those_of_the_real_file():
    """Per-episode statistics differ by less than 4 standard errors, over 10 new episodes and the real 100."""
    real = real_file(MAZE)
    maze = simulator(MAZE)
    ours = [maze.collect(Episode("train", index), seed=3, steps=1001) for index in range(10)]

    def statistics(actions):
        return np.concatenate([actions.mean(1), actions.std(1), (np.abs(actions) == 1).mean(1)], axis=1)

    there = statistics(real["actions"].reshape(100, 1001, 2))
    here = statistics(np.array([episode["actions"] for episode in ours]))
    error = there.std(0, ddof=1) * np.sqrt(1 / 10 + 1 / 100)
    assert np.all(np.abs(here.mean(0) - there.mean(0)) < 4 * error)

    def occupancy(observations):
        cells = ((observations + 6) // 4).astype(int)
        return np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64) / len(cells)

    by_episode = np.array([occupancy(o) for o in real["observations"].reshape(100, 1001, 2)])
    picks = np.random.default_rng(0).choice(100, size=(1000, 10))
    distances = np.abs(by_episode[picks].mean(1) - by_episode.mean(0)).sum(1)
    distance = np.abs(np.mean([occupancy(o["observations"]) for o in ours], axis=0) - by_episode.mean(0)).sum()
    assert distance < distances.max(), "cells are visited unlike in any 10 episodes of the real file"


def test_cube_statistics_are_those_of_the_real_file():
    """Mean, spread and jitter of each action; half or twice the noise would be off by more than 10 errors."""
    real = real_file("cube-single-play-v0")
    cube = simulator("cube-single-play-v0")
    ours = np.array([cube.collect(Episode("train", i), seed=0, steps=400)["actions"] for i in range(2)])

    def statistics(actions):
        jitter = np.abs(np.diff(actions, axis=1)).mean(1)
        return np.concatenate([actions.mean(1), actions.std(1), jitter], axis=1)

    there, here = statistics(real["actions"].reshape(60, 1001, 5)[:, :400]), statistics(ours)
    error = there.std(0, ddof=1) * np.sqrt(1 / 2 + 1 / 60)
    assert np.all(np.abs(here.mean(0) - there.mean(0)) < 4 * error)


def test_noisy_takes_the_published_share_of_random_actions():
    """Without noise the oracle always opens or closes the gripper fully; other values are random actions."""
    cube = simulator("cube-single-noisy-v0", noise=0.0)
    gripper = cube.collect(Episode("train", 0), seed=0, steps=600)["actions"][:, 4]
    share = np.mean(np.abs(gripper) < 1)
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 600)


def test_noisy_draws_a_noise_level_per_episode():
    """The gripper command is -1 or 1 plus ten levels of noise; levels are uniform between 0 and 0.1."""
    cube = simulator("cube-single-noisy-v0", random_action=0.0)
    levels = []
    for index in range(20):
        gripper = np.abs(cube.collect(Episode("train", index), seed=0, steps=40)["actions"][:, 4])
        levels.append(np.median(1 - gripper[gripper < 1]) / 6.745)  # half a normal law is within 0.6745 deviations
    assert abs(np.mean(levels) - 0.05) < 3 * 0.1 / np.sqrt(12 * 20)
    assert min(levels) < 0.02 and max(levels) > 0.08


def test_published_settings():
    probabilities = {name: recipe.random_action for name, recipe in RECIPES.items() if recipe.random_action}
    assert probabilities["scene-noisy-v0"] == 0.1 and probabilities["puzzle-4x6-noisy-v0"] == 0.2
    assert len(generatable()) == 8 + 2 * 18 and generatable() == sorted(generatable())
    steps = {name: recipe.episode_steps for name, recipe in RECIPES.items() if recipe.episode_steps != 1001}
    assert steps == {"pointmaze-giant-navigate-v0": 2001} | {
        f"pointmaze-{size}-stitch-v0": 201 for size in ("medium", "large", "giant", "teleport")
    }


@pytest.mark.parametrize("name", ["scene-play-v0", "puzzle-3x3-noisy-v0"])
def test_scenes_with_buttons_store_their_states(name):
    arrays = simulator(name).collect(Episode("train", 0), seed=0, steps=120)
    assert arrays["button_states"].dtype == np.int64
    assert arrays["button_states"].shape == (120, {"scene": 2, "puzzle": 9}[name.split("-")[0]])
    assert set(np.unique(arrays["button_states"])) == {0, 1}
    assert np.any(np.diff(arrays["button_states"], axis=0)), "the oracle should have pressed a button"


def test_goals_of_mazes():
    # the corridor cells (1, 2) and (2, 1) are straight; corners, junctions and dead ends are goals
    maze = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    assert vertex_cells(maze) == [(1, 1), (1, 3), (3, 1), (3, 2)]
    env = maze_env("pointmaze-large-v0")
    for start in [(1, 1), (5, 9), (3, 4)]:
        _, distances = env.get_oracle_subgoal(env.ij_to_xy(start), env.ij_to_xy(start))
        expected = {(int(i), int(j)) for i, j in np.argwhere(distances == 4)}
        assert set(cells_at_distance(env.maze_map, start, 4)) == expected


def test_remembered_subgoal_is_the_oracles():
    env = maze_env("pointmaze-teleport-v0")
    rollout = PointmazeRollout(env, RECIPES["pointmaze-teleport-navigate-v0"])
    points = np.random.default_rng(0).uniform([-3, -3], [41, 29], size=(600, 2, 2))
    for xy, goal in np.concatenate([points, points + 0.3]):
        np.testing.assert_array_equal(rollout.subgoal(xy, goal), env.get_oracle_subgoal(xy, goal)[0])


def test_stitch_goes_four_cells_away_and_stays():
    arrays = simulator("pointmaze-medium-stitch-v0").collect(Episode("train", 0), seed=0, steps=201)
    start, *path = [tuple(cell) for cell in ((arrays["observations"][:, ::-1] + 6) // 4).astype(int)]
    assert len(set(path[-50:])) == 1
    assert path[-1] in cells_at_distance(maze_env("pointmaze-medium-v0").maze_map, start, 4)


def test_lost_cubes():
    qpos = np.zeros((3, 21))
    assert manipulation_module.cube_stays_visible(qpos)
    for y, z, fine in [(0.3, 0.02, False), (-0.31, 0.02, False), (-0.31, 0.07, True), (-0.31, 0.09, False)]:
        qpos[1, 15:17] = y, z
        assert manipulation_module.cube_stays_visible(qpos) is fine


def test_scene_episode_with_a_lost_cube_is_collected_again(monkeypatch):
    scene = simulator("scene-play-v0")
    first = scene.collect(Episode("train", 0), seed=0, steps=5)
    verdicts = iter([False, True])
    monkeypatch.setattr(manipulation_module, "cube_stays_visible", lambda qpos: next(verdicts))
    second = scene.collect(Episode("train", 0), seed=0, steps=5)
    assert not np.array_equal(first["qpos"], second["qpos"]) and next(verdicts, None) is None


# Seeds


@pytest.mark.parametrize("name", [MAZE, "scene-noisy-v0"])
def test_episode_does_not_depend_on_earlier_ones(name):
    one, other = simulator(name), simulator(name)
    other.collect(Episode("train", 1), seed=0, steps=130)
    assert same(*(s.collect(Episode("train", 0), seed=0, steps=130) for s in (one, other)))


def test_episodes_differ_by_split_index_and_seed():
    maze = simulator(MAZE)
    episodes = [(Episode("train", 0), 0), (Episode("train", 1), 0), (Episode("validation", 0), 0)]
    starts = [maze.collect(e, seed=seed, steps=3)["actions"].tobytes() for e, seed in [*episodes, (episodes[0][0], 1)]]
    assert len(set(starts)) == 4


def test_global_random_state_is_left_alone(tmp_path):
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


# Files


def test_official_loader_reads_a_maze(tmp_path):
    import ogbench

    path = generate(MAZE, directory=tmp_path, episodes=2, episode_steps=20, seed=5)
    assert path == tmp_path / f"{MAZE}.npz"
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{MAZE}-val.npz", f"{MAZE}.json", f"{MAZE}.npz"]
    name = "pointmaze-medium-navigate-singletask-task2-v0"
    _, train, validation = ogbench.make_env_and_datasets(name, dataset_dir=str(tmp_path))
    assert train["observations"].shape == (38, 2) and validation["actions"].shape == (19, 2)
    np.testing.assert_array_equal(train["terminals"].nonzero()[0], [18, 37])
    assert set(np.unique(train["rewards"])) <= {-1.0, 0.0}
    np.testing.assert_array_equal(train["next_observations"][:18], train["observations"][1:19])
    with np.load(path) as ours:
        first = simulator(MAZE).collect(Episode("train", 0), seed=5, steps=20)
        assert same({key: ours[key][:20] for key in ours.files}, first)


@pytest.mark.parametrize("name", ["cube-single-play-v0", "cube-single-noisy-v0"])
def test_official_loader_reads_a_cube(tmp_path, name):
    import ogbench

    path = generate(name, directory=tmp_path, episodes=1, episode_steps=15)
    task = name.replace("-v0", "-singletask-task1-v0")
    _, train, validation = ogbench.make_env_and_datasets(task, dataset_dir=str(tmp_path))
    assert train["observations"].shape == validation["observations"].shape == (14, 28)
    assert train["actions"].shape == (14, 5) and np.all(np.abs(train["actions"]) <= 1)
    real = real_file("cube-single-play-v0")
    with np.load(path) as ours:
        assert ours.files == real.files
        assert [ours[key].dtype for key in ours.files] == [real[key].dtype for key in real.files]
        assert [ours[key].shape[1:] for key in ours.files] == [real[key].shape[1:] for key in real.files]


def test_provenance(tmp_path):
    path = generate(MAZE, directory=tmp_path, episodes=2, episode_steps=10, seed=7)
    note = json.loads((tmp_path / f"{MAZE}.json").read_text())
    assert note["seed"] == 7 and note["noise"] == 0.5 and note["versions"]["ogbench"]
    assert note["rows"] == {"train": 20, "validation": 10} and note["episode_steps"] == 10
    assert list(note["sha256"]) == [path.name, f"{MAZE}-val.npz"]


def test_existing_dataset_is_kept_unless_told_otherwise(tmp_path):
    path = generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5)
    before = path.read_bytes()
    with pytest.raises(DataError, match=str(path)):
        generate(MAZE, directory=tmp_path, episodes=1, episode_steps=6)
    path.unlink()
    with pytest.raises(DataError, match=r"-val\.npz exists"):
        generate(MAZE, directory=tmp_path, episodes=1, episode_steps=6)
    generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5, overwrite=True)
    assert path.read_bytes() == before


def interrupted(tmp_path, after=2, **options):
    """Start a dataset of 4 + 1 episodes and press Ctrl-C after some of them."""

    def press(done, total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(MAZE, directory=tmp_path, episodes=4, episode_steps=10, progress=press, **options)


def test_interrupted_run_goes_on(tmp_path):
    interrupted(tmp_path)
    partial = tmp_path / f".{MAZE}.partial"
    assert list(tmp_path.iterdir()) == [partial]
    assert sorted(p.name for p in partial.glob("*.npz")) == ["train-000000.npz", "train-000001.npz"]
    calls = []
    options = {"episodes": 4, "episode_steps": 10}
    path = generate(MAZE, directory=tmp_path, progress=lambda *call: calls.append(call), **options)
    assert calls == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert not partial.exists()
    assert path.read_bytes() == generate(MAZE, directory=tmp_path / "whole", **options).read_bytes()


def test_interrupted_overwrite_keeps_the_old_files(tmp_path):
    path = generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5)
    before = path.read_bytes()
    interrupted(tmp_path, overwrite=True)
    assert path.read_bytes() == before


def test_other_settings_do_not_mix(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(DataError, match=r"\.partial .*seed: 0 there, 1 now.* delete that folder"):
        generate(MAZE, directory=tmp_path, episodes=4, episode_steps=10, seed=1)
    path = generate(MAZE, directory=tmp_path, episodes=6, episode_steps=10)
    longer = np.load(path)["observations"]
    shorter = np.load(generate(MAZE, directory=tmp_path / "b", episodes=3, episode_steps=10))["observations"]
    np.testing.assert_array_equal(longer[:30], shorter)


def test_damaged_episode_is_named(tmp_path):
    interrupted(tmp_path)
    damaged = tmp_path / f".{MAZE}.partial" / "train-000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{damaged.name} is damaged .* Delete it"):
        generate(MAZE, directory=tmp_path, episodes=4, episode_steps=10)
    assert not (tmp_path / f"{MAZE}.npz").exists()
    damaged.unlink()
    generate(MAZE, directory=tmp_path, episodes=4, episode_steps=10)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_two_runs_do_not_share_a_folder(tmp_path):
    def start_another(done, total):
        generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5)

    with pytest.raises(DataError, match="Another process is generating"):
        generate(MAZE, directory=tmp_path, episodes=1, episode_steps=5, progress=start_another)


def test_failed_writes_leave_no_files(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        generate(MAZE, directory=tmp_path / "file", episodes=1, episode_steps=5)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(StorageError, match="No space left"):
        generate(MAZE, directory=tmp_path / "full", episodes=1, episode_steps=5)
    assert {p.suffix for p in (tmp_path / "full").rglob("*.*") if p.is_file()} == {".npz", ".json"}
    assert [p.name for p in (tmp_path / "full").iterdir()] == [f".{MAZE}.partial"]
    monkeypatch.undo()
    generate(MAZE, directory=tmp_path / "full", episodes=1, episode_steps=5)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("antmaze-medium-navigate-v0", "policy for the ant.*Download it.*/antmaze-medium-navigate-v0.npz"),
        ("humanoidmaze-giant-stitch-v0", "policy for the humanoid"),
        ("visual-antmaze-medium-navigate-v0", "policy for the ant"),
        ("pointmaze-medium-navigat-v0", "Did you mean 'pointmaze-medium-navigate-v0'"),
    ],
)
def test_names_that_cannot_be_generated(tmp_path, name, says):
    with pytest.raises(ConfigError, match=says):
        generate(name, directory=tmp_path, episodes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"episodes": 0}, {"validation_episodes": 0}, {"workers": 0}, {"seed": -1}, {"episode_steps": 1}]
)
def test_numbers_out_of_range(tmp_path, wrong):
    (key, value), options = *wrong.items(), {"directory": tmp_path, "episodes": 1} | wrong
    with pytest.raises(ConfigError, match=f"{key}={value} "):
        generate(MAZE, **options)


# Worker processes


def test_workers_make_the_same_bytes(tmp_path):
    options = {"episodes": 5, "validation_episodes": 2, "episode_steps": 60, "seed": 9}
    paths = [generate(MAZE, directory=tmp_path / str(n), workers=n, **options) for n in (1, 2)]
    for name in (f"{MAZE}.npz", f"{MAZE}-val.npz"):
        assert len({(path.parent / name).read_bytes() for path in paths}) == 1


@pytest.mark.slow
def test_failure_in_a_worker_is_shown():
    recipe = dataclasses.replace(RECIPES[MAZE], environment="pointmaze-none-v0")
    with pytest.raises(RuntimeError, match=r"(?s)failed in a worker process.*pointmaze-none"):
        list(collect(recipe, [Episode("train", 0), Episode("train", 1)], seed=0, steps=5, workers=2))


@pytest.mark.slow
def test_killed_worker_is_reported_and_its_work_goes_on(tmp_path):
    import multiprocessing

    options = {"directory": tmp_path, "episodes": 40, "episode_steps": 1001}

    def kill_one(done, total):
        if done == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]

    with pytest.raises(DataError, match=r"exit code -9.*fewer workers"):
        generate(MAZE, workers=2, progress=kill_one, **options)
    assert not multiprocessing.active_children()
    calls = []
    generate(MAZE, progress=lambda done, total: calls.append(done), **options)
    assert calls[0] >= 1


def running(group):
    """Processes of a group that are not zombies."""
    states = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True).stdout
    return [line for line in states.splitlines() if line.split()[0] == str(group) and line.split()[1][0] != "Z"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
@pytest.mark.parametrize("early", [True, False])
def test_interrupt_ends_all_processes_quietly(tmp_path, early):
    """Ctrl-C reaches parent and workers at once, as in a terminal, at their start or later."""
    script = tmp_path / "script.py"
    script.write_text(
        "from genpolicy.data.generation import generate\n"
        "try:\n"  # without a main guard, which nobody writes in a notebook
        f"    generate({MAZE!r}, directory={str(tmp_path)!r}, episodes=2, episode_steps=500000,\n"
        "             workers=2, progress=lambda *call: print(*call, flush=True))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "0 3\n"
        time.sleep(0.1 if early else 3)
        os.killpg(process.pid, signal.SIGINT)
        out, problems = process.communicate(timeout=10)
        assert out.splitlines()[-1] == "interrupted" and problems == ""
        deadline = time.monotonic() + 10
        while running(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(process.pid)
    finally:
        if running(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert not list(tmp_path.glob("*.npz")) and (tmp_path / f".{MAZE}.partial").is_dir()
