import errno
import io
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import ogbench
import ogbench.utils
import pytest
import torch

from genpolicy.data import BatchSampler, describe, get_task, load_dataset, npz
from genpolicy.data import ogbench as source
from genpolicy.data.dataset import ACTION_EPSILON
from genpolicy.errors import ConfigError, DataError, StorageError

DATA_DIR = Path(os.environ.get("GENPOLICY_DATA_DIR", Path(__file__).parents[2] / ".." / "shared" / "data"))
MAZE = "pointmaze-medium-navigate-singletask-task5-v0"
MAZE_FILE = "pointmaze-medium-navigate-v0"
SCENE = "scene-play-singletask-v0"

pytestmark = pytest.mark.filterwarnings("ignore")


def maze_arrays(episodes=4, rows=101, seed=0):
    """Random states in OGBench's layout, in and around the goals of tasks 1 and 5 and elsewhere."""
    generator = np.random.default_rng(seed)
    terminals = np.zeros((episodes, rows), bool)
    terminals[:, -1] = True
    cells = generator.choice([0.0, 4.0, 20.0], size=(episodes * rows, 2))
    positions = (cells + generator.normal(scale=0.7, size=cells.shape)).astype(np.float32)
    return {
        "observations": positions,
        "actions": generator.uniform(-1, 1, size=(episodes * rows, 2)).astype(np.float32),
        "terminals": terminals.reshape(-1),
        "qpos": positions.copy(),
        "qvel": np.zeros_like(positions),
    }


def scene_arrays(rows=200, seed=0):
    generator = np.random.default_rng(seed)
    terminals = np.zeros(rows, bool)
    terminals[[99, rows - 1]] = True
    return {
        "observations": generator.normal(size=(rows, 40)).astype(np.float32),
        "actions": generator.uniform(-1, 1, size=(rows, 5)).astype(np.float32),
        "terminals": terminals,
        "qpos": generator.uniform(-0.2, 0.2, size=(rows, 25)).astype(np.float32),
        "button_states": generator.integers(2, size=(rows, 2)),
    }


def write(directory, name=MAZE_FILE, make=maze_arrays, **changes):
    """Write both splits; `changes` replace arrays of the training split, None removes one."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {key: value for key, value in {**make(), **changes}.items() if value is not None}
    np.savez_compressed(directory / f"{name}.npz", **arrays)
    np.savez_compressed(directory / f"{name}-val.npz", **make(seed=1))
    return directory / f"{name}.npz"


def files_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# What is loaded


def assert_same_as_ogbench(name, directory):
    env, *theirs = ogbench.make_env_and_datasets(name, dataset_dir=str(directory))
    env.close()
    for dataset, expected in zip(load_dataset(name, directory), theirs, strict=True):
        batch = BatchSampler(dataset, 1, discount=0.99).gather(torch.arange(len(dataset)))
        limit = 1 - ACTION_EPSILON
        expected["actions"] = np.clip(expected["actions"], -limit, limit)
        for key in ("observations", "actions", "next_observations", "rewards", "masks"):
            np.testing.assert_array_equal(batch[key].numpy(), expected[key], err_msg=key, strict=True)
        lasts = dataset.episode_ends - torch.arange(dataset.num_episodes) - 1
        np.testing.assert_array_equal(lasts.numpy(), np.flatnonzero(expected["terminals"]))
        assert len(np.unique(expected["rewards"])) > 1


@pytest.mark.parametrize("name", [MAZE, "cube-single-play-singletask-v0"])
def test_real_transitions_are_those_of_ogbenchs_own_loader(name):
    dataset = get_task(name).dataset
    wanted = [DATA_DIR / "ogbench" / f"{dataset}{split}.npz" for split in ("", "-val")]
    missing = [str(path.resolve()) for path in wanted if not path.exists()]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (GENPOLICY_DATA_DIR names their directory)")
    assert_same_as_ogbench(name, DATA_DIR / "ogbench")


@pytest.mark.parametrize(
    ("name", "make"),
    [(MAZE, maze_arrays), ("pointmaze-medium-navigate-singletask-v0", maze_arrays), (SCENE, scene_arrays)],
)
def test_transitions_are_those_of_ogbenchs_own_loader(name, make, tmp_path):
    write(tmp_path, get_task(name).dataset, make)
    assert_same_as_ogbench(name, tmp_path)


def arrays_for(name, rows=60, seed=0):
    """Random states for a task's simulator, in the first half of the rows with each thing in its place or not."""
    generator = np.random.default_rng(seed)
    with source.simulator(get_task(name)) as env:
        env.reset()
        inside = env.unwrapped
        qpos = generator.normal(size=(rows, inside.model.nq)).astype(np.float32)
        buttons = generator.integers(2, size=(rows, getattr(inside, "_num_buttons", 0)))
        placed = generator.random((rows, 8)) < 0.7
        placed[rows // 2 :] = False
        placed[:5] = True
        if hasattr(inside, "cur_goal_xy"):
            first = 15 if "soccer" in name else 0
            qpos[placed[:, 0], first : first + 2] = np.add(inside.cur_goal_xy, 0.1)
        else:
            for cube, target in enumerate(inside._data.mocap_pos[: getattr(inside, "_num_cubes", 0)]):
                qpos[placed[:, cube], 14 + 7 * cube : 17 + 7 * cube] = target + 0.01
            if buttons.size:
                buttons[:5] = inside._target_button_states
        terminals = np.zeros(rows, bool)
        terminals[[rows // 3, rows - 1]] = True
        return {
            "observations": generator.normal(size=(rows, *env.observation_space.shape)).astype(np.float32),
            "actions": generator.uniform(-1, 1, size=(rows, *env.action_space.shape)).astype(np.float32),
            "terminals": terminals,
            "qpos": qpos,
            "qvel": np.zeros_like(qpos),
        } | ({"button_states": buttons} if buttons.size else {})


@pytest.mark.parametrize(
    "name",
    [
        "antmaze-teleport-explore-singletask-task3-v0",
        "humanoidmaze-medium-stitch-singletask-task2-v0",
        "antsoccer-arena-navigate-singletask-v0",
        "cube-double-noisy-singletask-task4-v0",
        "puzzle-3x3-play-singletask-task1-v0",
    ],
)
def test_goal_conditioned_data_of_every_kind_are_relabelled_as_ogbench_does(name, tmp_path):
    write(tmp_path, get_task(name).dataset, lambda seed=0: arrays_for(name, seed=seed))
    assert_same_as_ogbench(name, tmp_path)
    dataset, _ = load_dataset(name, tmp_path)
    assert dataset.masks.unique().tolist() == [0.0, 1.0]


def test_rewards_do_not_depend_on_the_pieces_in_which_a_file_is_read(tmp_path, monkeypatch):
    write(tmp_path)
    whole, _ = load_dataset(MAZE, tmp_path)
    monkeypatch.setattr(npz.NpzFile.chunks, "__defaults__", (7,))
    pieces, _ = load_dataset(MAZE, tmp_path)
    assert torch.equal(whole.rewards, pieces.rewards) and torch.equal(whole.observations, pieces.observations)


def test_arrays_in_columns_and_in_double_precision_are_read(tmp_path, monkeypatch):
    write(tmp_path / "usual")
    arrays = maze_arrays()
    doubles = {key: np.asfortranarray(arrays[key].astype(np.float64)) for key in ("observations", "actions", "qpos")}
    write(tmp_path / "columns", **doubles)
    monkeypatch.setattr(npz.NpzFile.chunks, "__defaults__", (50,))
    (one, _), (other, _) = (load_dataset(MAZE, tmp_path / folder) for folder in ("usual", "columns"))
    for key in ("observations", "actions", "rewards", "masks"):
        assert torch.equal(getattr(one, key), getattr(other, key))


def test_rewards_are_of_the_rows_own_state(tmp_path):
    write(tmp_path)
    dataset, _ = load_dataset(MAZE, tmp_path)
    near = np.linalg.norm(maze_arrays()["qpos"], axis=1) <= 1  # the goal of task 5 is the origin
    assert 0 < near.sum() < len(near)
    assert np.array_equal(dataset.rewards.numpy(), near - np.float32(1))
    assert np.array_equal(dataset.masks.numpy(), 1 - near.astype(np.float32))


def test_loading_leaves_numpys_global_generator_alone(tmp_path):
    write(tmp_path)
    np.random.seed(5)
    np.random.randn()  # the generator holds a second Gaussian back
    before = np.random.get_state()
    first, _ = load_dataset(MAZE, tmp_path)
    after = np.random.get_state()
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    np.random.seed(6)
    assert torch.equal(load_dataset(MAZE, tmp_path)[0].rewards, first.rewards)


def test_checksum_and_name_are_those_of_the_file(tmp_path):
    import hashlib

    path = write(tmp_path)
    train, validation = load_dataset(MAZE, tmp_path)
    assert train.checksum == hashlib.sha256(path.read_bytes()).hexdigest() != validation.checksum
    assert (train.name, validation.name) == (MAZE_FILE, f"{MAZE_FILE}-val")


def test_a_missing_validation_split_is_none_and_said(tmp_path, caplog):
    write(tmp_path).with_name(f"{MAZE_FILE}-val.npz").unlink()
    train, validation = load_dataset(MAZE, tmp_path)
    assert len(train) == 400 and validation is None
    assert f"{MAZE_FILE}-val.npz does not exist" in caplog.text


def test_the_directory_may_be_relative_or_below_the_home(tmp_path, monkeypatch):
    write(tmp_path / "sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset(MAZE, "~/sets")[0]) == 400
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset(MAZE, "sets")[0]) == 400
    write(tmp_path / ".ogbench" / "data", make=lambda seed=0: maze_arrays(episodes=2, seed=seed))
    assert len(load_dataset(MAZE)[0]) == 200


def test_an_unknown_task_is_answered_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match=f"Did you mean '{MAZE}'"):
        load_dataset(MAZE.replace("medium", "medum"), tmp_path)


# Damaged files


def spoilt(key, rows, value=np.nan):
    array = maze_arrays()[key]
    array[rows, 0] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (spoilt("observations", [3, 50]), "observations has NaN or infinite values in rows 3, 50"),
        (spoilt("qpos", [7]), "qpos has NaN or infinite values in row 7"),
        (spoilt("actions", [8], 2.0), r"actions leave \[-1, 1\] \(up to 2\) in row 8"),
        ({"actions": np.zeros((403, 2), np.float32)}, "numbers of rows differ: .* actions 403"),
        (
            {"qpos": None, "actions": None},
            "has no 'actions' and no 'qpos'; it has observations, terminals, qvel",
        ),
        (
            {"observations": np.zeros((404, 29), np.float32)},
            r"row of observations has shape \(29,\), not \(2,\)",
        ),
        ({"actions": np.zeros((404, 5), np.float32)}, r"row of actions has shape \(5,\), not \(2,\)"),
        ({"qpos": np.zeros((404, 15), np.float32)}, r"row of qpos has shape \(15,\), not \(2,\)"),
        ({"terminals": np.zeros(404, bool)}, "there is no episode end"),
        ({"terminals": np.array(["no"] * 404)}, "terminals must hold numbers .* dtype <U2"),
        ({"observations": np.array([{}] * 404)}, "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_error_with_the_reason(changes, message, tmp_path):
    path = write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(MAZE, tmp_path)
    assert str(path) in str(error.value)


def test_wrong_buttons_are_refused(tmp_path):
    write(tmp_path, "scene-play-v0", scene_arrays, button_states=np.zeros((200, 9), np.int64))
    with pytest.raises(DataError, match=r"button_states has shape \(9,\), not \(2,\)"):
        load_dataset(SCENE, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_named_as_such(share, tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"not a complete npz archive.*truncated or damaged") as error:
        load_dataset(MAZE, tmp_path)
    assert str(path) in str(error.value)


def test_flipped_bytes_are_noticed(tmp_path):
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[1000:1010] = bytes(255 - byte for byte in content[1000:1010])
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(MAZE, tmp_path)


# Downloads


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, *args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def serve(monkeypatch, answer):
    """Let every download be answered by ``answer(file name)``, a binary stream."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: answer(url.rsplit("/", 1)[1]))


def test_without_network_the_error_says_what_is_wanted_and_the_two_ways_out(tmp_path, no_network):
    folder = tmp_path / "new" / "data"
    with pytest.raises(DataError) as error:
        load_dataset(MAZE, folder)
    for part in (
        f"{folder}/{MAZE_FILE}.npz",
        f"{ogbench.utils.DATASET_URL}/{MAZE_FILE}.npz",
        "Name or service not known",
        "copy",
        f"genpolicy data generate {MAZE_FILE} --out {folder}",
    ):
        assert part in str(error.value)
    assert files_below(tmp_path) == []
    assert socket.getdefaulttimeout() is None


def test_data_that_cannot_be_generated_are_not_offered_so(tmp_path, no_network):
    with pytest.raises(DataError, match="choose another task") as error:
        load_dataset("antmaze-large-navigate-singletask-v0", tmp_path)
    assert "--out" not in str(error.value)


def test_downloading_can_be_turned_off(tmp_path, monkeypatch):
    serve(monkeypatch, lambda name: pytest.fail("downloaded"))
    with pytest.raises(DataError, match="downloading is turned off"):
        load_dataset(MAZE, tmp_path, download=False)


class Breaking(io.BytesIO):
    """A stream that fails after its first line."""

    def __init__(self, content, error):
        super().__init__(content)
        self.error = error

    def __next__(self):
        if self.tell():
            raise self.error
        return super().__next__()


@pytest.mark.parametrize("broken", [f"{MAZE_FILE}.npz", f"{MAZE_FILE}-val.npz"])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionResetError("reset by peer"), DataError, "reset by peer"),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "No space left.*Free space"),
        (None, DataError, "arrived incomplete"),
    ],
)
def test_a_broken_download_leaves_nothing(broken, error, kind, message, tmp_path, monkeypatch):
    write(tmp_path / "server")

    def answer(name):
        content = (tmp_path / "server" / name).read_bytes()
        if name != broken:
            return io.BytesIO(content)
        return Breaking(content, error) if error else io.BytesIO(content[:-30])

    serve(monkeypatch, answer)
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "mine.txt").touch()
    with pytest.raises(kind, match=message):
        load_dataset(MAZE, tmp_path / "client")
    assert files_below(tmp_path / "client") == ["mine.txt"]


def test_a_download_is_loaded_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    write(tmp_path / "server")
    serve(monkeypatch, lambda name: io.BytesIO((tmp_path / "server" / name).read_bytes()))
    own = write(tmp_path / "client").with_name(f"{MAZE_FILE}-val.npz")
    np.savez(own, **maze_arrays(episodes=2))
    own.with_name(f"{MAZE_FILE}.npz").unlink()
    train, validation = load_dataset(MAZE, tmp_path / "client")
    assert (len(train), len(validation)) == (400, 200)
    assert files_below(tmp_path / "client") == [f"{MAZE_FILE}-val.npz", f"{MAZE_FILE}.npz"]
    assert capsys.readouterr().out == ""


def test_a_file_in_place_of_the_directory_is_a_storage_error(tmp_path, no_network):
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="Cannot store"):
        load_dataset(MAZE, tmp_path / "data")


# Descriptions


def test_a_description_of_a_file_or_name_has_no_rewards(tmp_path):
    path = write(tmp_path, **spoilt("actions", [3], 1.0))
    info = describe(path)
    assert info == describe(str(path)) == describe(MAZE_FILE, tmp_path)
    assert (info["rows"], info["transitions"], info["episodes"]) == (404, 400, 4)
    assert info["episode_length"] == {"min": 100, "mean": 100.0, "max": 100}
    assert info["arrays"]["qvel"] == {"shape": [404, 2], "dtype": "float32"}
    assert info["action_range"][1] == 1.0
    assert (info["path"], info["bytes"]) == (str(path), path.stat().st_size)
    assert info["validation"] == str(tmp_path / f"{MAZE_FILE}-val.npz")
    assert info["source_note"] is None and info["task"] is None and "rewards" not in info
    assert json.loads(json.dumps(info)) == info


def test_a_description_of_a_task_has_its_rewards_and_the_note_beside_the_file(tmp_path):
    path = write(tmp_path)
    path.with_suffix(".json").write_text("{}")
    info = describe(MAZE, tmp_path)
    assert (info["task"], info["rewards"]["min"], info["rewards"]["max"]) == (MAZE, -1.0, 0.0)
    assert info["rewards"]["terminations"] == int(
        (load_dataset(MAZE, tmp_path)[0].summary())["rewards"]["terminations"]
    )
    assert info["source_note"] == str(path.with_suffix(".json"))
    assert describe(f"{MAZE_FILE}-val", tmp_path)["source_note"] == info["source_note"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("missing.npz", "There is no file .*missing.npz"),
        ("cube-single-pla-v0", "Unknown dataset 'cube-single-pla-v0'. Did you mean 'cube-single-play-v0'"),
        ("cube-single-play-v0", "a description downloads nothing"),
    ],
)
def test_what_cannot_be_described_is_said(wanted, message, tmp_path):
    with pytest.raises(DataError, match=message):
        describe(wanted, tmp_path)
