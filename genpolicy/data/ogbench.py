"""OGBench's datasets: read, downloaded if absent, and labelled with the rewards of a single task.

A file ``<dataset>.npz`` holds ``observations``, ``actions``, ``terminals`` and the simulator's ``qpos`` (its
``qvel`` is not needed), for scene and puzzle also ``button_states``; ``<dataset>-val.npz`` is the validation
split. Rewards are not stored: OGBench computes them from ``qpos`` and the goal of the task, for the state of
each row (for mazes 0 at the goal and -1 elsewhere), and so do we, with OGBench's own function.
"""

import contextlib
import errno
import hashlib
import io
import logging
import socket
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data._validation import finite_problem, length_problem, raise_problems
from genpolicy.data.dataset import TransitionDataset
from genpolicy.data.tasks import Task
from genpolicy.errors import DataError, StorageError

logger = logging.getLogger(__name__)

BASIC_KEYS = ("observations", "actions", "terminals")
DEFAULT_DIRECTORY = Path("~/.ogbench/data")
_CONNECTION_TIMEOUT = 30.0  # seconds; without it a silent network holds a run up for minutes
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


def load(
    task: Task, *, directory: str | Path | None = None, download: bool = True
) -> tuple[TransitionDataset, TransitionDataset | None]:
    """Read the dataset of a task, with its rewards and masks.

    Args:
        task: a task whose source is ``ogbench``.
        directory: where the files are or go; ``~`` is expanded; default ``~/.ogbench/data``.
        download: whether to download the dataset if the training file is absent.

    Returns:
        The training split, and the validation split or None if its file is absent.

    Raises:
        DataError: if the files are absent and cannot be downloaded, are damaged, or do not fit the simulator.
        StorageError: if the directory cannot be written to.
    """
    folder = resolve_directory(directory)
    path, validation_path = folder / f"{task.dataset}.npz", folder / f"{task.dataset}-val.npz"
    if not path.exists():
        if not download:
            raise missing_dataset(task.dataset, folder, "downloading is turned off")
        _download(task.dataset, folder)
    arrays = read_arrays(path, BASIC_KEYS + reward_keys(task))
    with numpy_generator_kept(), simulator(task) as env:
        train = label(path, arrays, task, env)
        del arrays
        if not validation_path.exists():
            logger.warning("There is no validation split: %s does not exist.", validation_path)
            return train, None
        arrays = read_arrays(validation_path, BASIC_KEYS + reward_keys(task))
        return train, label(validation_path, arrays, task, env)


def resolve_directory(directory: str | Path | None) -> Path:
    """The absolute path of a data directory, ``~`` expanded; OGBench's own if none is given."""
    return Path(directory or DEFAULT_DIRECTORY).expanduser().absolute()


def reward_keys(task: Task) -> tuple[str, ...]:
    """The arrays that the rewards of a task are computed from."""
    return ("qpos", "button_states") if task.environment.startswith(("scene-", "puzzle-")) else ("qpos",)


def read_arrays(path: Path, required: tuple[str, ...], *, others: bool = False) -> dict[str, np.ndarray]:
    """Read arrays from an npz file, without running code that a file may hold.

    Args:
        path: an existing file.
        required: the keys to read, whose arrays must hold numbers.
        others: whether to read the other arrays too.

    Raises:
        DataError: if the file cannot be read, or a required array is absent or not of numbers.
    """
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise zipfile.BadZipFile("it is not a complete npz archive")
        with np.load(path, allow_pickle=False) as file:
            present = file.files
            arrays = {key: file[key] for key in present if others or key in required}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. If it is truncated or damaged, "
            "delete it and download, copy or generate it again."
        ) from error
    missing = [key for key in required if key not in arrays]
    if missing:
        raise DataError(
            f"{path} has no {' and no '.join(map(repr, missing))}; it has {', '.join(present)}. It must be "
            "in OGBench's layout: download, copy or generate it again."
        )
    problems = [
        f"{key} must hold numbers for each row, but has dtype {array.dtype} and shape {array.shape}"
        for key, array in arrays.items()
        if key in required and (array.dtype.kind not in "fiub" or not array.ndim)
    ]
    raise_problems(f"{path} cannot be used", problems)
    return arrays


def label(
    path: Path, arrays: dict[str, np.ndarray], task: Task, env: Any, *, clip_actions: bool = True
) -> TransitionDataset:
    """Check that a file's arrays fit a task's simulator, and make them a dataset with the task's rewards.

    The arrays that only rewards need are taken out of `arrays`, so that their memory is free early.
    """
    from ogbench.relabel_utils import relabel_dataset

    expected = {
        "observations": env.observation_space.shape,
        "actions": env.action_space.shape,
        "qpos": (env.unwrapped.model.nq,),
    }
    if "button_states" in reward_keys(task):
        expected["button_states"] = (env.unwrapped._num_buttons,)
    problems = length_problem({key: len(arrays[key]) for key in BASIC_KEYS + reward_keys(task)})
    for key, shape in expected.items():
        if arrays[key].shape[1:] != shape:
            problems.append(f"a row of {key} has shape {arrays[key].shape[1:]}, not {shape}")
    labels = {key: arrays.pop(key) for key in reward_keys(task)}
    for key, array in labels.items():
        problems += finite_problem(key, array)
    raise_problems(f"{path} does not fit the environment '{task.environment}'", problems)
    relabel_dataset(task.environment, env, labels)
    rewards, masks = labels["rewards"], labels["masks"]
    del labels
    return make_dataset(path, arrays, rewards, masks, clip_actions=clip_actions)


def make_dataset(
    path: Path, arrays: dict[str, np.ndarray], rewards: np.ndarray, masks: np.ndarray, *, clip_actions: bool
) -> TransitionDataset:
    """Make the arrays of a file a dataset; errors and checksum are those of the file."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return TransitionDataset.from_arrays(
            arrays["observations"],
            arrays["actions"],
            rewards,
            masks,
            arrays["terminals"],
            name=path.stem,
            clip_actions=clip_actions,
            checksum=checksum,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


@contextlib.contextmanager
def simulator(task: Task) -> Iterator[Any]:
    """The simulator of a task, which knows its goal."""
    import gymnasium
    import ogbench  # noqa: F401  registers the environments

    with warnings.catch_warnings():
        # They are about the precision of unbounded boxes, and about a display, which is not needed.
        warnings.simplefilter("ignore")
        env: Any = gymnasium.make(task.environment, disable_env_checker=True)
        with contextlib.closing(env):
            if "maze_type" in env.spec.kwargs:
                Path(env.unwrapped.fullpath).unlink(missing_ok=True)  # a temporary file that OGBench leaves
            yield env


@contextlib.contextmanager
def numpy_generator_kept() -> Iterator[None]:
    """Leave numpy's global generator as it was: OGBench's resets draw from it."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _download(dataset: str, folder: Path) -> None:
    """Fetch both splits with OGBench's own downloader: both arrive whole, or nothing is left in `folder`."""
    import ogbench.utils

    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    timeout = socket.getdefaulttimeout()
    logger.info("Downloading %s from %s to %s", dataset, ogbench.utils.DATASET_URL, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(_CONNECTION_TIMEOUT)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            with contextlib.redirect_stdout(io.StringIO()):
                ogbench.utils.download_datasets([dataset], temporary)
            files = [Path(temporary, f"{dataset}{split}.npz") for split in ("-val", "")]
            for file in files:
                if not zipfile.is_zipfile(file):
                    raise ConnectionError(f"{file.name} arrived incomplete")
            for file in files:
                if not (folder / file.name).exists():
                    file.replace(folder / file.name)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _FULL_DISK | _NO_ACCESS:
            message = f"Cannot store '{dataset}' in {folder}: {error}. Free space there or set data.dir."
            raise StorageError(message) from error
        raise missing_dataset(dataset, folder, f"it could not be downloaded ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()


def missing_dataset(dataset: str, folder: Path, reason: str) -> DataError:
    """The error for a dataset that is not there: the file wanted, its address, and what to do."""
    import ogbench.utils

    from genpolicy.data.generation import generatable

    wanted = folder / f"{dataset}.npz"
    if dataset in generatable():
        other = f"generate data of the same kind: genpolicy data generate {dataset} --out {folder}"
    else:
        other = "choose another task: this dataset is none of those that `genpolicy data generate` can make"
    return DataError(
        f"Dataset '{dataset}' is not on this machine: {wanted} does not exist, and {reason}.\n"
        f"Two ways out: (1) copy {dataset}.npz and {dataset}-val.npz from another machine, or from "
        f"{ogbench.utils.DATASET_URL}/{dataset}.npz, to {folder}; (2) {other}."
    )
