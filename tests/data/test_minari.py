import json
import os
import shutil
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from minari import MinariDataset

from genpolicy.data import BatchSampler, describe, get_task, load_dataset, minari
from genpolicy.data.minari_metadata import environment_spec, make_task
from genpolicy.envs import make_env
from genpolicy.errors import ConfigError, DataError
from tests.data.minari_sets import ACTIONS, antmaze_spec, episode, goal_episode, goal_space, write

DATA_DIR = Path(os.environ.get("GENPOLICY_DATA_DIR", Path(__file__).parents[2] / ".." / "shared" / "data"))
COLLECTED = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
TURNED = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]


@pytest.fixture
def real() -> Path:
    folder = DATA_DIR / "minari" / "local" / "door-human-v1"
    if not folder.exists():
        pytest.skip(f"missing: {folder.resolve()} (GENPOLICY_DATA_DIR names the directory above it)")
    return folder


def transitions(dataset):
    """All transitions, one step each."""
    sampler = BatchSampler(dataset, 1, discount=0.9)
    return sampler.gather(torch.arange(len(dataset)))


# From episodes to transitions


def test_the_transitions_are_those_of_minaris_episodes_element_by_element(real):
    found = transitions(minari.read_folder(real, clip_actions=False))
    episodes = list(MinariDataset(str(real / "data")).iterate_episodes())
    wanted = {
        "observations": [one.observations[:-1] for one in episodes],
        "next_observations": [one.observations[1:] for one in episodes],
        "actions": [one.actions for one in episodes],
        "rewards": [one.rewards for one in episodes],
        "masks": [~one.terminations for one in episodes],
    }
    for key, arrays in wanted.items():
        assert np.array_equal(found[key].numpy(), np.concatenate(arrays).astype(np.float32)), key


def test_and_they_are_those_of_d4rls_file_of_the_same_episodes_with_the_last_step_of_each_besides(real):
    ours = transitions(minari.read_folder(real))
    theirs, _ = load_dataset("door-human-v1", path=DATA_DIR / "d4rl" / "door-human-v1.hdf5", download=False)
    ends = minari.read_folder(real).episode_ends
    lasts = ends - 1 - torch.arange(len(ends))  # the number of each episode's last transition
    kept = torch.ones(len(ours["rewards"]), dtype=torch.bool)
    kept[lasts] = False
    for key, tensor in transitions(theirs).items():
        if key != "next_actions":  # in D4RL's file the row that was cut off has an action too
            assert torch.equal(tensor, ours[key][kept]), key


def test_a_termination_ends_the_value_and_a_truncation_bootstraps(tmp_path):
    kinds = ("terminated", "truncated", "nothing")
    folder = write(tmp_path / "set", [episode(4, seed, ended=kind) for seed, kind in enumerate(kinds)])
    found = transitions(minari.read_folder(folder))
    assert found["masks"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    last = episode(4, 1)["observations"][-1]
    assert np.array_equal(found["next_observations"][7].numpy(), last.astype(np.float32))


def test_actions_are_scaled_by_the_bounds_of_their_space_as_the_environments_are(tmp_path):
    bounds = Box(np.float32([-2, 0]), np.float32([2, 1]))
    actions = np.float32([[-2, 0], [2, 1], [1, 0.25]])
    folder = write(tmp_path / "set", [episode(3, actions=actions)], actions=bounds)
    dataset = minari.read_folder(folder, clip_actions=False)
    assert np.allclose(dataset.actions[:3], [[-1, -1], [1, 1], [0.5, -0.5]])


def test_parts_of_a_dict_follow_one_another_by_name_as_gymnasium_flattens_them(tmp_path):
    one = goal_episode(5, None)
    folder = write(tmp_path / "set", [one], observations=goal_space(), actions=Box(-1, 1, (8,)))
    dataset = minari.read_folder(folder)
    for row in range(6):
        state = {key: array[row] for key, array in one["observations"].items()}
        flat = gymnasium.spaces.flatten(goal_space(), state)
        assert np.array_equal(dataset.observations[row].numpy(), flat.astype(np.float32))


def test_a_nested_dict_is_flattened_too(tmp_path):
    space = Dict({"b": Dict({"y": Box(-1, 1, (2,)), "x": Box(-1, 1, (1,))}), "a": Box(-1, 1, (2, 2))})
    parts = {"b": {"y": np.full((3, 2), 6), "x": np.full((3, 1), 5)}, "a": np.arange(12).reshape(3, 2, 2)}
    folder = write(tmp_path / "set", [episode(2, observations=parts)], observations=space)
    assert minari.read_folder(folder).observations.tolist()[1] == [4, 5, 6, 7, 5, 6, 6]


def test_episodes_that_lack_an_observation_are_left_out_with_a_warning(tmp_path, caplog):
    short = episode(4, 1, observations=np.zeros((4, 3)))
    dataset = minari.read_folder(write(tmp_path / "set", [episode(4), short, episode(5)]))
    assert len(dataset) == 9
    assert "1 episodes (number 1) have one observation too few" in caplog.text


# Tasks


def test_a_task_is_made_of_the_datasets_environment_and_reference_returns(real, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(DATA_DIR / "minari"))
    task = get_task("minari:local/door-human-v1")
    assert task == get_task(f"minari:{real}") == get_task(f"minari:{real / 'data'}")
    assert (task.metric, task.reference_returns) == ("score", (-56.512833, 2880.5693087298737))
    assert "is not a D4RL score" in (task.difference or "")
    env = make_env(task)
    assert env.observation_space.shape == (39,) and env.spec.max_episode_steps == 200
    env.close()
    assert describe("minari:local/door-human-v1")["transitions"] == 6729


def test_of_a_dataset_that_is_not_here_the_task_knows_nothing_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = get_task("minari:D4RL/door/human-v2")
    assert (task.source, task.environment, task.metric) == ("minari", "", "return")
    folder = write(tmp_path / "D4RL/door/human-v2", [episode(3)], env="Pendulum-v1", identity="D4RL/door/human-v2")
    assert minari.prepare(task).environment == f"minari:{folder}"


def test_the_recovered_environment_has_the_actions_of_the_data(tmp_path):
    folder = write(tmp_path / "set", [episode(3)], env="Pendulum-v1")
    env = make_env(make_task(f"minari:{folder}"))
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32 and env.action_space == Box(-1, 1, (1,))
    env.close()


# Antmaze


def maze_set(folder: Path, evaluated: list, **kwargs) -> Path:
    return write(
        folder,
        [goal_episode(6, 3, 0), goal_episode(4, None, 1), goal_episode(5, 5, 2), goal_episode(5, 1, 3)],
        observations=goal_space(),
        actions=Box(-1, 1, (8,)),
        env=antmaze_spec(COLLECTED, **kwargs),
        eval_env_spec=antmaze_spec(evaluated, **kwargs).to_json(),
        ref_min_score=0.0,
        ref_max_score=200.0,
    )


def test_antmazes_episodes_end_at_the_first_success(tmp_path):
    folder = maze_set(tmp_path / "set", TURNED)
    dataset = minari.read_folder(folder)
    found = transitions(dataset)
    assert found["rewards"].tolist() == [-1, -1, 0, -1, -1, -1, -1, -1, -1, -1, -1, 0, 0]
    assert found["masks"].tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    goal = goal_episode(6, 3, 0)["observations"]["achieved_goal"][3]
    assert np.array_equal(found["next_observations"][2, :2].numpy(), goal.astype(np.float32))
    assert minari.reward_shift(make_task(f"minari:{folder}")) == -1


def test_dense_rewards_are_left_alone(tmp_path):
    folder = maze_set(tmp_path / "set", TURNED, reward_type="dense")
    dataset = minari.read_folder(folder)
    assert len(dataset) == 20 and transitions(dataset)["rewards"].min() == 0
    assert make_task(f"minari:{folder}").metric == "score"
    assert minari.reward_shift(make_task(f"minari:{folder}")) == 0


def test_antmaze_is_scored_by_success_in_the_maze_of_the_data_and_ends_at_the_goal(tmp_path):
    folder = maze_set(tmp_path / "set", TURNED)
    task = make_task(f"minari:{folder}")
    assert (task.metric, task.reference_returns) == ("success", None)
    env = make_env(task)
    maze = env.unwrapped
    assert maze.maze.maze_map == COLLECTED and not maze.continuing_task
    assert env.observation_space.shape == (31,)
    observation, _ = env.reset(seed=0)
    maze.goal = observation[:2].astype(float)  # where the ant is
    *_, terminated, _, info = env.step(np.zeros(8, np.float32))
    assert terminated and info["success"]
    env.close()


def test_a_maze_whose_walls_differ_otherwise_is_not_used(tmp_path, caplog):
    other = [row.copy() for row in TURNED]
    other[2][1] = 1
    spec = environment_spec(maze_set(tmp_path / "set", other))
    assert spec["kwargs"]["maze_map"] == COLLECTED
    assert "other walls than the data" in caplog.text


# Bad input


def test_a_folder_without_a_dataset(tmp_path):
    with pytest.raises(DataError, match=r"There is no Minari dataset in .*does not exist"):
        minari.load(get_task(f"minari:{tmp_path}/none"))


def test_without_a_network_the_error_says_what_to_do_and_nothing_is_left(tmp_path, monkeypatch):
    def offline(identity, **_):
        Path(os.environ["MINARI_DATASETS_PATH"], "half").mkdir()
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("minari.download_dataset", offline)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    with pytest.raises(DataError, match=r"could not be downloaded \(ConnectionError: Name.*minari download D4RL/a-v0"):
        load_dataset("minari:D4RL/a-v0")
    assert not (tmp_path / "sets").exists()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "sets")


def test_a_download_appears_when_it_is_complete(tmp_path, monkeypatch):
    def arrive(identity, **_):
        write(Path(os.environ["MINARI_DATASETS_PATH"], identity), [episode(4)], env="Pendulum-v1", identity=identity)

    monkeypatch.setattr("minari.download_dataset", arrive)
    dataset, _ = load_dataset("minari:D4RL/a-v0", tmp_path)
    assert len(dataset) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["D4RL"]


def test_downloading_can_be_forbidden(tmp_path):
    with pytest.raises(DataError, match="downloading is turned off"):
        load_dataset("minari:D4RL/a-v0", tmp_path, download=False)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"actions": Discrete(3)}, "actions in the space Discrete"),
        ({"actions": Box(-np.inf, np.inf, (1,))}, "must be a bounded Box"),
        ({"observations": Discrete(3)}, "observations in the space Discrete"),
        ({"observations": Box(0, 255, (8, 8, 3), np.uint8)}, "images are read from OGBench's files only"),
        ({"observations": Dict({"a": Box(-1, 1, (3,)), "b": Discrete(2)})}, "Dict of such Boxes"),
    ],
)
def test_spaces_that_are_not_supported_are_named(tmp_path, spaces, message):
    folder = write(tmp_path / "set", [], **spaces)
    with pytest.raises(DataError, match=message):
        minari.read_folder(folder)


def test_a_truncated_file_and_damaged_metadata(tmp_path):
    folder = write(tmp_path / "set", [episode(50)])
    file = folder / "data" / "main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read: OSError"):
        minari.read_folder(folder)
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata.json cannot be read"):
        minari.read_folder(folder)
    (folder / "data" / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match="no 'dataset_id' and no 'total_episodes'"):
        get_task(f"minari:{folder}")


def test_missing_arrays_and_episodes(tmp_path):
    folder = write(tmp_path / "set", [episode(5)])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
    with pytest.raises(DataError, match=r"cannot be read: KeyError.*rewards"):
        minari.read_folder(folder)
    shutil.rmtree(folder)
    write(folder, [episode(5)], total_episodes=2)
    with pytest.raises(DataError, match=r"cannot be read: KeyError.*episode_1"):
        minari.read_folder(folder)


def test_lengths_that_do_not_fit_are_listed_together(tmp_path):
    wrong = episode(5, actions=np.zeros((4, 1), np.float32), terminations=np.zeros(3, bool))
    with pytest.raises(DataError, match=r"5 rewards, but:(?s:.*)actions has 4 rows(?s:.*)terminations has 3 rows"):
        minari.read_folder(write(tmp_path / "set", [wrong]))


def test_an_unknown_version_of_minari(tmp_path):
    folder = write(tmp_path / "set", [episode(5)], minari_version="9.9.9")
    with pytest.raises(DataError, match=r"does not support .*9\.9\.9"):
        minari.read_folder(folder)


def test_without_minari_the_extra_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", [episode(5)])
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(ConfigError, match=r"pip install 'genpolicy\[minari\]'"):
        minari.read_folder(folder)


def test_an_environment_that_is_not_installed_is_named(tmp_path):
    spec = {"id": "Missing-v0", "entry_point": "missing_package.envs:Env", "kwargs": {}, "additional_wrappers": []}
    folder = write(tmp_path / "set", [episode(5)], env_spec=json.dumps(spec))
    with pytest.raises(ConfigError, match="No module named 'missing_package'"):
        make_env(make_task(f"minari:{folder}"))


def test_a_dataset_without_environment_cannot_be_scored(tmp_path):
    task = make_task(f"minari:{write(tmp_path / 'set', [episode(5)], actions=ACTIONS)}")
    with pytest.raises(ConfigError, match=r"data\.environment"):
        make_env(task)


def test_an_environment_that_orders_its_parts_otherwise_than_the_data_is_refused(tmp_path):
    folder = write(
        tmp_path / "set",
        [],
        env=gymnasium.envs.registration.EnvSpec("Unordered-v0", "tests.data.minari_sets:Unordered"),
        observations=goal_space(),
    )
    with pytest.raises(ConfigError, match="orders its observation's parts b, a; the data have them in alphabetic"):
        make_env(make_task(f"minari:{folder}"))
