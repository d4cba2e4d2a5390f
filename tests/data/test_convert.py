import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from minari import MinariDataset

from genpolicy.data import BatchSampler, check_file, convert_dataset, d4rl, get_task, load_dataset, load_file, minari
from genpolicy.data.files import read_hdf5
from genpolicy.data.npz import read_arrays
from genpolicy.errors import ConfigError, DataError, StorageError
from tests.data.minari_sets import antmaze_spec, episode, goal_episode, goal_space, write

DATA_DIR = Path(os.environ.get("GENPOLICY_DATA_DIR", Path(__file__).parents[2] / ".." / "shared" / "data"))
MAZE = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]


def real(name: str) -> Path:
    path = DATA_DIR / name
    if not path.exists():
        pytest.skip(f"missing: {path.resolve()} (GENPOLICY_DATA_DIR names the directory above it)")
    return path


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return read_arrays(path)
    return read_hdf5(path / "data" / "main_data.hdf5" if path.is_dir() else path)


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for key, array in one.items():
        assert (array.dtype, array.shape) == (other[key].dtype, other[key].shape), key
        assert np.array_equal(array, other[key]), key


def transitions(dataset):
    return BatchSampler(dataset, 1, discount=0.9).gather(torch.arange(len(dataset)))


# Round trips


@pytest.mark.parametrize("middle", ["m.npz", "m.hdf5", "m"])
@pytest.mark.parametrize(
    ("name", "back"),
    [
        ("ogbench/pointmaze-medium-navigate-v0-val.npz", "back.npz"),
        ("ogbench/cube-single-play-v0-val.npz", "back.npz"),
        ("d4rl/pen-expert-v1.hdf5", "back.hdf5"),
        ("d4rl/door-human-v1.hdf5", "back.hdf5"),
        ("minari/local/door-human-v1", "back"),
    ],
)
def test_real_data_come_back_element_by_element(tmp_path, name, back, middle):
    source = real(name)
    if Path(middle).suffix == Path(back).suffix:
        pytest.skip("the same format")
    there = convert_dataset(source, tmp_path / middle)
    assert_same(arrays_of(source), arrays_of(convert_dataset(there, tmp_path / back)))


@pytest.mark.parametrize("middle", ["m.npz", "m.hdf5"])
def test_minaris_oddities_come_back(tmp_path, middle):
    both = {"terminations": np.array([False, False, True]), "truncations": np.array([False, True, True])}
    sets = [
        episode(4, 0, ended="terminated"),
        episode(3, 1, ended="nothing"),
        episode(3, 2, **both),
        episode(1, 3, ended="truncated"),
    ]
    for one in sets:
        one["infos"]["power"] = np.arange(len(one["rewards"]))  # one for each step, not for each state
    source = write(tmp_path / "set-v1", sets, env="Pendulum-v1", ref_min_score=-3.0, ref_max_score=2.0)
    back = convert_dataset(convert_dataset(source, tmp_path / middle), tmp_path / "back")
    assert_same(arrays_of(source), arrays_of(back))
    was, became = (json.loads((path / "data" / "metadata.json").read_text()) for path in (source, back))
    assert {key for key in was | became if was.get(key) != became.get(key)} <= {"jpeg_encoding", "dataset_size"}
    assert MinariDataset(str(back / "data")).recover_environment().spec.id == "Pendulum-v1"


def test_a_dict_observation_comes_back(tmp_path):
    source = write(
        tmp_path / "set-v1",
        [goal_episode(6, 3, 0), goal_episode(4, None, 1)],
        observations=goal_space(),
        actions=Box(-1, 1, (8,)),
        env=antmaze_spec(MAZE),
    )
    table = convert_dataset(source, tmp_path / "m.npz")
    assert read_arrays(table)["observations"].shape == (12, 31)
    assert_same(arrays_of(source), arrays_of(convert_dataset(table, tmp_path / "back")))


def test_goals_in_the_middle_of_an_episode_do_not_end_it(tmp_path):
    rng = np.random.default_rng(0)
    ends = np.isin(np.arange(30), [9, 29])
    source = tmp_path / "mine.npz"
    masks = (rng.uniform(size=30) < 0.5).astype(np.float32)
    arrays = {"observations": rng.normal(size=(30, 2)), "actions": rng.uniform(-1, 1, (30, 2)), "rewards": masks - 1}
    np.savez(source, **arrays, masks=masks, terminals=ends)
    hdf5 = convert_dataset(source, tmp_path / "mine.hdf5")
    assert_same(read_arrays(source), read_arrays(convert_dataset(hdf5, tmp_path / "back.npz")))
    wanted, found = transitions(load_file(source)), transitions(d4rl.read(hdf5))
    for key in ("observations", "actions", "rewards", "masks"):
        assert torch.equal(wanted[key], found[key]), key
    alive = wanted["masks"] == 1
    assert torch.equal(wanted["next_observations"][alive], found["next_observations"][alive])


# Transitions in the other format


@pytest.mark.parametrize("name", ["real", "made"])
def test_transitions_are_the_same_in_every_format(tmp_path, name):
    if name == "real":
        source = real("minari/local/door-human-v1")
    else:
        kinds = ("terminated", "truncated", "terminated")
        sets = [episode(4 + seed, seed, ended=kind) for seed, kind in enumerate(kinds)]
        sets = [one | {"actions": one["actions"] / 2} for one in sets]
        source = write(tmp_path / "set-v1", sets, actions=Box(-1, 1, (1,)))
    wanted = transitions(minari.read_folder(source))
    for name in ("set.npz", "set.hdf5"):
        assert check_file(convert_dataset(source, tmp_path / name)).problems == []
        found = transitions(load_file(tmp_path / name))
        for key, tensor in wanted.items():
            if key != "next_actions":
                assert torch.equal(tensor, found[key]), key


def test_terminals_keep_their_transitions_although_the_state_after_them_is_not_in_the_file(tmp_path):
    source = real("d4rl/pen-expert-v1.hdf5")
    wanted = transitions(load_file(source))
    assert (wanted["masks"] == 0).sum() == 3
    for name in ("set.npz", "set-v0"):
        found = transitions(load_file(convert_dataset(source, tmp_path / name)))
        for key in ("observations", "next_observations", "actions", "rewards", "masks"):
            assert torch.equal(wanted[key], found[key]), key


def test_with_next_observations_no_step_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 6, 3)).astype(np.float32)
    source = tmp_path / "mine.hdf5"
    with h5py.File(source, "w") as file:
        file["observations"], file["next_observations"] = states[:, :-1].reshape(-1, 3), states[:, 1:].reshape(-1, 3)
        file["actions"], file["rewards"] = rng.uniform(-1, 1, (10, 2)), np.arange(10.0)
        file["terminals"], file["timeouts"] = np.arange(10) == 9, np.arange(10) == 4
    wanted = transitions(load_file(source))
    assert len(wanted["rewards"]) == 10
    for name in ("set.npz", "set-v0"):
        found = transitions(load_file(convert_dataset(source, tmp_path / name)))
        for key, tensor in wanted.items():
            if key != "next_actions":
                assert torch.equal(tensor, found[key]), key


def test_a_task_gives_an_ogbench_file_its_rewards_and_its_environment(tmp_path):
    source = real("ogbench/pointmaze-medium-navigate-v0-val.npz")
    task = "pointmaze-medium-navigate-singletask-task1-v0"
    folder = convert_dataset(source, tmp_path / "maze-v0", task=task)
    wanted, _ = load_dataset(task, path=source, download=False)
    found = minari.read_folder(folder)
    assert torch.equal(transitions(wanted)["rewards"], transitions(found)["rewards"])
    assert (transitions(found)["masks"] == 0).sum() == 43
    env = MinariDataset(str(folder / "data")).recover_environment()
    assert env.spec.id == "pointmaze-medium-singletask-task1-v0"


def test_a_d4rl_task_gives_a_minari_dataset_its_environment_and_its_scores(tmp_path):
    source = real("d4rl/door-expert-v1.hdf5")
    folder = convert_dataset(source, tmp_path / "door-v0", task="door-expert-v1")
    task, official = get_task(f"minari:{folder}"), get_task("door-expert-v1")
    assert (task.metric, task.reference_returns) == ("score", official.reference_returns)
    env = MinariDataset(str(folder / "data")).recover_environment()
    assert env.spec.id == official.environment == "d4rl/door"
    assert torch.equal(transitions(minari.read_folder(folder))["rewards"], transitions(load_file(source))["rewards"])


def test_minari_itself_reads_what_is_written_and_knows_its_id(tmp_path, monkeypatch):
    import minari as package

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    convert_dataset(real("d4rl/pen-expert-v1.hdf5"), tmp_path / "mine" / "pen-v3", environment="AdroitHandPen-v1")
    dataset = package.load_dataset("mine/pen-v3")
    assert (dataset.id, dataset.total_episodes, dataset.total_steps) == ("mine/pen-v3", 40, 3861)
    assert package.list_local_datasets()["mine/pen-v3"]["total_steps"] == 3861
    assert dataset[0].observations.shape == (len(dataset[0].actions) + 1, 45)


# Refusals


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.npz"
    ends = np.arange(10) % 5 == 4
    np.savez(path, observations=np.zeros((10, 2)), actions=np.zeros((10, 1)), rewards=np.ones(10), terminals=ends)
    return path


def test_an_existing_target_is_kept_unless_it_may_be_replaced(tmp_path, source):
    for name in ("set.hdf5", "set-v0"):
        target = convert_dataset(source, tmp_path / name)
        with pytest.raises(ConfigError, match=r"exists already.*--overwrite"):
            convert_dataset(source, target)
        assert convert_dataset(source, target, overwrite=True) == target
        assert len(load_file(target)) == 8
    with pytest.raises(ConfigError, match="Source and target are both"):
        convert_dataset(source, source, overwrite=True)


@pytest.mark.parametrize("name", ["deep/er/set.hdf5", "deep/er/set.npz", "deep/er/set-v0"])
def test_after_an_error_nothing_is_left(tmp_path, source, name, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    monkeypatch.setattr("h5py.File.create_dataset", full)
    monkeypatch.setattr("minari.dataset.minari_storage.MinariStorage.new", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match="No space left on device"):
        convert_dataset(source, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_sources_that_cannot_be_converted(tmp_path, source):
    with pytest.raises(DataError, match="There is no file"):
        convert_dataset(tmp_path / "none.npz", tmp_path / "a.hdf5")
    with pytest.raises(DataError, match=r"is none of \.npz"):
        convert_dataset(write_text(tmp_path / "a.csv"), tmp_path / "a.hdf5")
    with pytest.raises(DataError, match="cannot be read"):
        convert_dataset(write_text(tmp_path / "b.npz"), tmp_path / "a.hdf5")
    np.savez(tmp_path / "c.npz", observations=np.zeros((3, 1)))
    with pytest.raises(DataError, match="has no 'actions' and no 'terminals'; it has observations"):
        convert_dataset(tmp_path / "c.npz", tmp_path / "a.hdf5")
    np.savez(tmp_path / "d.npz", observations=np.zeros((3, 1)), actions=np.zeros((2, 1)), terminals=np.ones(4))
    with pytest.raises(DataError, match=r"actions has 2 rows, observations 3(?s:.*)terminals has 4 rows"):
        convert_dataset(tmp_path / "d.npz", tmp_path / "a.hdf5")
    assert not (tmp_path / "a.hdf5").exists()


def test_options_that_do_not_fit(tmp_path, source):
    with pytest.raises(ConfigError, match="Only Minari's format names an environment"):
        convert_dataset(source, tmp_path / "a.hdf5", environment="Pendulum-v1")
    with pytest.raises(ConfigError, match="Gymnasium knows no environment 'Nothing-v0'"):
        convert_dataset(source, tmp_path / "a-v0", environment="Nothing-v0")
    with pytest.raises(ConfigError, match="Only Minari's format names the environment of 'door-human-v1'"):
        convert_dataset(source, tmp_path / "a.hdf5", task="door-human-v1")
    assert [path.name for path in tmp_path.iterdir()] == ["source.npz"]


def test_a_format_can_be_named_where_the_name_does_not_tell(tmp_path, source):
    plain = source.rename(tmp_path / "plain")
    target = convert_dataset(plain, tmp_path / "set.bin", source_format="ogbench", target_format="d4rl")
    assert set(read_hdf5(target)) >= {"observations", "timeouts"}


def write_text(path: Path) -> Path:
    path.write_text("1,2,3")
    return path
