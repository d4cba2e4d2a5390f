"""Datasets of numbered files, which are converted into folders of arrays and read row by row."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genpolicy.data import BatchSampler, get_task, load_dataset
from genpolicy.data import dataset as dataset_module
from genpolicy.data import ogbench as source
from genpolicy.data import store as store_module
from genpolicy.data.store import RowFile, Store, write
from genpolicy.errors import DataError, StorageError

MAZE = "pointmaze-medium-navigate-singletask-task5-v0"
FOLDER, NAME = "pointmaze-medium-navigate-100m-v0", "pointmaze-medium-navigate-v0"
FLOAT = np.dtype(np.float32)

pytestmark = pytest.mark.filterwarnings("ignore")


def maze_arrays(lengths=(21, 40, 2, 30), seed=0):
    """Random states in OGBench's layout, in and around the goals of tasks 1 and 5; some actions are at the bounds."""
    generator = np.random.default_rng(seed)
    rows = sum(lengths)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    cells = generator.choice([0.0, 4.0, 20.0], size=(rows, 2))
    positions = (cells + generator.normal(scale=0.7, size=cells.shape)).astype(np.float32)
    return {
        "observations": positions,
        "actions": generator.uniform(-1.3, 1.3, size=(rows, 2)).clip(-1, 1).astype(np.float32),
        "terminals": terminals,
        "qpos": positions.copy(),
    }


def numbered(directory, count=3, splits=("", "-val")):
    """A folder of numbered files, and the same rows as one file beside it."""
    folder = directory / FOLDER
    folder.mkdir(parents=True)
    for split in splits:
        files = [maze_arrays(seed=10 * number + len(split)) for number in range(count)]
        for number, arrays in enumerate(files):
            np.savez_compressed(folder / f"{NAME}-{number:03d}{split}.npz", **arrays)
        together = {key: np.concatenate([arrays[key] for arrays in files]) for key in files[0]}
        np.savez_compressed(directory / f"together{split}.npz", **together)
    return folder


@pytest.fixture
def folder(tmp_path):
    return numbered(tmp_path)


def everything(sampler):
    return sampler.gather(torch.arange(len(sampler)))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


# Numbered files


def test_transitions_are_those_of_the_files_one_after_the_other(folder, monkeypatch):
    monkeypatch.setattr(source, "_LABELLED", 7)
    for split, dataset in zip(("", "-val"), load_dataset(MAZE, path=folder), strict=True):
        together, _ = load_dataset(MAZE, path=folder.with_name(f"together{split}.npz"))
        assert dataset.file is not None and together.file is None
        assert torch.equal(dataset.episode_ends, together.episode_ends)
        assert dataset.rewards.unique().tolist() == [-1.0, 0.0]
        for options in ({}, {"n_step": 3}, {"n_step": 4, "action_chunk": 2}, {"frame_stack": 3, "n_step": 2}):
            ours, theirs = (BatchSampler(one, 16, discount=0.9, **options) for one in (dataset, together))
            assert_same(everything(ours), everything(theirs))


def test_statistics_and_summary_are_those_of_the_files_in_memory(folder, monkeypatch):
    monkeypatch.setattr(dataset_module, "_STATISTICS_CHUNK", 13)
    dataset, _ = load_dataset(MAZE, path=folder)
    together, _ = load_dataset(MAZE, path=folder.with_name("together.npz"))
    assert all(map(torch.equal, dataset.observation_mean_std(), together.observation_mean_std()))
    different = ("name", "checksum")
    ours, theirs = (
        {key: value for key, value in one.summary().items() if key not in different} for one in (dataset, together)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("task", "numbers"),
    [("antmaze-medium-navigate-singletask-task2-v0", (1, 2)), ("scene-play-singletask-task4-v0", (4,))],
)
def test_one_conversion_serves_all_tasks_of_its_environment(task, numbers, tmp_path):
    with source.simulator(get_task(task)) as env:
        shape, nq = env.observation_space.shape, env.unwrapped.model.nq
        actions = env.action_space.shape[0]
    folder = tmp_path / "files"
    folder.mkdir()
    generator = np.random.default_rng(0)
    arrays = maze_arrays() | {
        "observations": generator.normal(size=(93, *shape)),  # float64
        "actions": generator.uniform(-1, 1, size=(93, actions)).astype(np.float32),
        "qpos": generator.uniform(-0.2, 25, size=(93, nq)),
        "button_states": generator.integers(2, size=(93, 2)),
    }
    np.savez(folder / "any-000.npz", **arrays)
    np.savez(tmp_path / "together.npz", **arrays)
    for number in numbers:
        name = re.sub(r"task\d", f"task{number}", task)
        dataset, validation = load_dataset(name, path=folder)
        together, _ = load_dataset(name, path=tmp_path / "together.npz")
        assert validation is None
        assert torch.equal(dataset.rewards, together.rewards) and torch.equal(dataset.masks, together.masks)
        assert torch.equal(dataset.observations, together.observations)
    written = {path.name for path in (tmp_path / "files.store").iterdir()}
    assert len([name for name in written if "singletask" in name]) == len(numbers)


def test_the_conversion_and_the_rewards_are_made_once(folder, monkeypatch):
    first, _ = load_dataset(MAZE, path=folder)
    monkeypatch.setattr(source, "_convert", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(source, "_label", lambda *_: pytest.fail("labelled again"))
    again, _ = load_dataset(MAZE, path=folder)
    assert again.checksum == first.checksum and torch.equal(again.rewards, first.rewards)
    shutil.rmtree(folder)  # the files are not needed any more
    for path in (folder, folder.with_name(f"{FOLDER}.store")):
        assert torch.equal(load_dataset(MAZE, path=path)[0].observations, first.observations)


def test_a_task_whose_dataset_is_a_folder_finds_it_by_name(folder, tmp_path):
    import dataclasses

    task = dataclasses.replace(get_task(MAZE), dataset=FOLDER)
    assert load_dataset(task, tmp_path, download=False)[0].name == FOLDER


def test_only_complete_folders_have_the_final_name(folder, tmp_path):
    load_dataset(MAZE, path=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        FOLDER,
        f"{FOLDER}-val.store",
        f"{FOLDER}.store",
        "together-val.npz",
        "together.npz",
    ]


def spoil_observation(arrays):
    arrays["observations"][5, 1] = np.nan


def spoil_action(arrays):
    arrays["actions"][5] = 3


def spoil_state(arrays):
    arrays["qpos"][5] = np.inf


def spoil_end(arrays):
    arrays["terminals"][-1] = False


def spoil_width(arrays):
    arrays["observations"] = arrays["observations"][:, :1]


def spoil_keys(arrays):
    del arrays["qpos"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_observation, "observations has NaN or infinite values in row 5"),
        (spoil_action, r"actions leave \[-1, 1\] \(up to 3\) in row 5"),
        (spoil_state, "qpos has NaN or infinite values in row 5"),
        (spoil_end, r"the last row \(92\) does not end an episode"),
        (spoil_width, r"a row of observations has shape \(1,\), not \(2,\)"),
        (spoil_keys, "has no 'qpos'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_left(spoil, message, folder, tmp_path):
    path = folder / f"{NAME}-001.npz"
    arrays = maze_arrays(seed=10)
    spoil(arrays)
    np.savez(path, **arrays)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message) as error:
        load_dataset(MAZE, path=folder)
    assert str(path) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_truncated_file_is_named_and_nothing_is_left(folder, tmp_path):
    path = folder / f"{NAME}-002.npz"
    path.write_bytes(path.read_bytes()[:-40])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"not a complete npz archive.*truncated") as error:
        load_dataset(MAZE, path=folder)
    assert str(path) in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_left_out_numbers_are_listed(folder):
    (folder / f"{NAME}-001.npz").unlink()
    with pytest.raises(DataError, match="lacks 1 of the files up to number 002: 001"):
        load_dataset(MAZE, path=folder)


def test_files_of_several_datasets_are_refused(folder):
    shutil.copy(folder / f"{NAME}-000.npz", folder / "other-v0-000.npz")
    with pytest.raises(DataError, match=f"several datasets: other-v0, {NAME}|several datasets: {NAME}, other-v0"):
        load_dataset(MAZE, path=folder)


def test_a_folder_without_numbered_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no files that are numbered"):
        load_dataset(MAZE, path=tmp_path)


def test_a_conversion_of_other_files_is_refused(folder):
    load_dataset(MAZE, path=folder)
    shutil.copy(folder / f"{NAME}-000.npz", folder / f"{NAME}-003.npz")
    with pytest.raises(DataError, match=r"was made from 3 files that are not those of .*4 files.*Delete"):
        load_dataset(MAZE, path=folder)


def test_tasks_with_pixels_are_refused(folder):
    with pytest.raises(DataError, match="pixels"):
        load_dataset("visual-cube-single-play-singletask-task1-v0", path=folder)


# Batches


def test_batches_are_those_of_the_dataset_in_memory(folder):
    dataset, _ = load_dataset(MAZE, path=folder)
    together, _ = load_dataset(MAZE, path=folder.with_name("together.npz"))
    ours, theirs = (BatchSampler(one, 16, discount=0.9, n_step=2, seed=3) for one in (dataset, together))
    for _ in range(20):
        assert_same(ours.sample(), theirs.sample())


def test_a_restored_sampler_goes_on_with_the_same_batches(folder):
    dataset, _ = load_dataset(MAZE, path=folder)
    sampler = BatchSampler(dataset, 16, discount=0.9, seed=3)
    untouched = sampler.state_dict()["generator"].clone()
    sampler.sample()
    state = {key: value.clone() for key, value in sampler.state_dict().items()}
    expected = [sampler.sample() for _ in range(12)]
    restored = BatchSampler(dataset, 16, discount=0.9, seed=4)
    restored.sample()
    restored.load_state_dict(state)
    for batch in expected:
        assert_same(restored.sample(), batch)
    in_memory, _ = load_dataset(MAZE, path=folder.with_name("together.npz"))
    assert torch.equal(BatchSampler(in_memory, 16, discount=0.9, seed=3).state_dict()["generator"], untouched)


def test_moving_the_dataset_reads_it_into_memory(folder):
    dataset, _ = load_dataset(MAZE, path=folder)
    assert dataset.to("cpu") is dataset
    assert dataset.to("meta").file is None


# The folders themselves


def pieces(rows=10):
    for start in range(0, rows, 4):
        numbers = np.arange(start, min(start + 4, rows))
        yield {"a": np.stack([numbers, numbers + 0.5], axis=1), "b": numbers}


SHAPES = {"a": ((10, 2), FLOAT), "b": ((10,), np.dtype(np.int64))}


def test_what_is_written_is_read_in_pieces_of_any_size(tmp_path):
    write(tmp_path / "new" / "store", SHAPES, pieces(), {"note": "n"})
    store = Store(tmp_path / "new" / "store")
    assert store.manifest["note"] == "n" and store.rows("a") == 10
    read = list(store.chunks(("a", "b"), 3))
    assert [len(piece["a"]) for piece in read] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate([piece["b"] for piece in read]), np.arange(10))
    assert np.array_equal(np.concatenate([piece["a"] for piece in read])[:, 1], np.arange(10, dtype=FLOAT) + 0.5)
    assert np.array_equal(store.load("a"), np.load(tmp_path / "new" / "store" / "a.npy"))
    store.verify()


def test_rows_are_read_from_anywhere(tmp_path):
    write(tmp_path / "store", SHAPES, pieces(), {})
    file = RowFile(Store(tmp_path / "store"), "a", 1)
    assert file.observations[:, 0].tolist() == list(range(10))
    rows = torch.tensor([4, 0, 9, -2])
    observations, actions, shift = file.read(rows, 3)
    assert torch.equal(actions, observations + 0.5)
    inside = torch.tensor([4, 0, 9, 0])
    assert torch.equal(observations[inside + shift, 0], inside.float())
    assert torch.equal(observations[torch.tensor([6, 2, 8, 2]) + shift, 0], torch.tensor([6.0, 2, 8, 2]))


def fail_halfway():
    yield next(pieces())
    raise DataError("halfway")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [(fail_halfway, DataError, "halfway"), (lambda: pieces(9), DataError, "rows of a are not as many")],
)
def test_after_an_error_nothing_is_left(given, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write(tmp_path / "store", SHAPES, given(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(StorageError, match=r"Cannot write .*store.*are needed"):
        write(tmp_path / "store", SHAPES, pieces(), {})
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_faster_process_is_kept(tmp_path):
    def slow():
        write(tmp_path / "store", SHAPES, pieces(), {"by": "the faster"})
        yield from pieces()

    write(tmp_path / "store", SHAPES, slow(), {"by": "the slower"})
    assert Store(tmp_path / "store").manifest["by"] == "the faster"


def shorten(folder):
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:-1])


def lose(folder):
    (folder / "b.npy").unlink()


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


def spoil_manifest(folder):
    (folder / "manifest.json").write_text("{")


def newer(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shorten, "a.npy has 207 bytes instead of 208"),
        (lose, "b.npy"),
        (lose_manifest, "manifest.json"),
        (spoil_manifest, "is not a complete folder"),
        (newer, "its format is 99, known is 1"),
    ],
)
def test_a_damaged_folder_is_refused(spoil, message, tmp_path):
    write(tmp_path / "store", SHAPES, pieces(), {})
    spoil(tmp_path / "store")
    with pytest.raises(DataError, match=message) as error:
        Store(tmp_path / "store")
    assert "Delete it" in str(error.value)


def test_changed_bytes_are_found_by_verifying(tmp_path):
    write(tmp_path / "store", SHAPES, pieces(), {})
    path = tmp_path / "store" / "a.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"a.npy has sha256 .* it was written with"):
        Store(tmp_path / "store").verify()


# Memory

MEASURE = """
import sys
from pathlib import Path
import torch
from genpolicy.data import BatchSampler, load_dataset

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

task, small, path = sys.argv[1:]
load_dataset(task, path=small)
torch.ones(4, 4).double().square().cumsum(0).index_select(0, torch.tensor([1]))
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
dataset, _ = load_dataset(task, path=path)
loaded = status("VmHWM") - before
for n_step in (1, 3):
    sampler = BatchSampler(dataset, 256, discount=0.99, n_step=n_step)
    for _ in range(200):
        sampler.sample()
dataset.observation_mean_std()
tensors = (dataset.observations, dataset.actions, dataset.rewards, dataset.masks)
size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20
print(loaded, status("VmHWM") - before, size)
"""


ANT = "antmaze-medium-navigate-singletask-v0"


def measure(directory, path):
    """MiB above what the process had before: while loading, and by the end of training; and of the dataset."""
    np.savez(directory / "small.npz", **ant_arrays(2000))
    command = [sys.executable, "-c", MEASURE, ANT, str(directory / "small.npz"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return map(float, done.stdout.split())


def ant_arrays(rows):
    generator = np.random.default_rng(0)
    terminals = np.zeros(rows, bool)
    terminals[999::1000] = True
    return {
        "observations": generator.normal(size=(rows, 29)).astype(np.float32),
        "actions": generator.uniform(-1.2, 1.2, size=(rows, 8)).clip(-1, 1).astype(np.float32),
        "terminals": terminals,
        "qpos": generator.normal(size=(rows, 15)).astype(np.float32),
    }


on_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process its peak memory"
)


@on_linux
def test_a_dataset_in_files_needs_a_fraction_of_its_size_in_memory(tmp_path):
    folder = tmp_path / "antmaze-medium-navigate-100m-v0"
    folder.mkdir()
    first = folder / "antmaze-medium-navigate-v0-000.npz"
    np.savez(first, **ant_arrays(100_000))
    for number in range(1, 15):
        (folder / f"antmaze-medium-navigate-v0-{number:03d}.npz").hardlink_to(first)
    loading, training, size = measure(tmp_path, folder)
    assert size == pytest.approx(1_500_000 * 39 * 4 / 2**20, rel=0.01)
    # 12 MiB of rewards and masks, and pieces of 2**14 rows (2**17 for rewards) in several forms.
    assert max(loading, training) < 80


@on_linux
def test_a_file_is_loaded_in_little_more_memory_than_its_arrays(tmp_path):
    np.savez(tmp_path / "ant.npz", **ant_arrays(800_000))
    loading, training, size = measure(tmp_path, tmp_path / "ant.npz")
    assert size == pytest.approx(800_000 * 39 * 4 / 2**20, rel=0.01)
    assert loading < 1.2 * size
    assert training < 1.35 * size  # with rewards and masks of n steps, and pieces in double precision
