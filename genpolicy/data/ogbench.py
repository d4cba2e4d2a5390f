"""OGBench's datasets: read, downloaded if absent, and labelled with the rewards of a single task.

A file ``<dataset>.npz`` holds ``observations``, ``actions``, ``terminals`` and the simulator's ``qpos`` (its
``qvel`` is not needed), for scene and puzzle also ``button_states``; ``<dataset>-val.npz`` is the validation
split. Rewards are not stored: OGBench computes them from ``qpos`` and the goal of the task, for the state of
each row (for mazes 0 at the goal and -1 elsewhere), and so do we, with OGBench's own function. So any file that
was collected for goal-conditioned learning serves the five single tasks of its environment.

A dataset of 100 million transitions is a folder of such files, ``<name>-000.npz``, ``<name>-000-val.npz`` and so on.
It is converted once, into folders beside it that are read row by row (`genpolicy.data.store`).
"""

import contextlib
import errno
import hashlib
import io
import logging
import re
import socket
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genpolicy.data._validation import RowChecks, length_problem, raise_problems
from genpolicy.data.dataset import ACTION_EPSILON, TransitionDataset
from genpolicy.data.download import alone
from genpolicy.data.npz import ArrayHeader, NpzFile
from genpolicy.data.store import RowFile, Store, write
from genpolicy.data.success_timing import registered
from genpolicy.data.tasks import Task
from genpolicy.errors import DataError, StorageError

logger = logging.getLogger(__name__)

BASIC_KEYS = ("observations", "actions", "terminals")
DEFAULT_DIRECTORY = Path("~/.ogbench/data")
STORE_SUFFIX = ".store"
_LABELLED = 1 << 15  # rows labelled together: OGBench resets the simulator each time
_CONNECTION_TIMEOUT = 30.0  # seconds; without it a silent network holds a run up for minutes
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)(?P<split>-val)?\.npz")


def load(
    task: Task, *, directory: str | Path | None = None, path: str | Path | None = None, download: bool = True
) -> tuple[TransitionDataset, TransitionDataset | None]:
    """Read the dataset of a task, with its rewards and masks.

    Args:
        task: a task whose source is ``ogbench``.
        directory: where the files are or go; ``~`` is expanded; default ``~/.ogbench/data``.
        path: the file to read in place of the task's own, or a folder of numbered files.
        download: whether to download the dataset if the training file is absent.

    Returns:
        The training split, and the validation split or None if its file is absent.

    Raises:
        DataError: if the files are absent and cannot be downloaded, are damaged, or do not fit the simulator.
        StorageError: if the directory cannot be written to.
    """
    folder = resolve_directory(directory)
    file = folder / f"{task.dataset}.npz" if path is None else Path(path).expanduser().absolute()
    numbered = folder / task.dataset if path is None else file
    if not file.is_file() and (numbered.is_dir() or _store_of(numbered, "").is_dir()):
        return _load_numbered(task, numbered)
    if not file.exists():
        if path is not None:
            raise missing_dataset(file.stem, file.parent, "downloading is turned off")
        if not download:
            raise missing_dataset(task.dataset, folder, "downloading is turned off")
        _download(task.dataset, folder)
    validation_file = file.with_name(f"{file.stem}-val.npz")
    files = [path for path in (file, validation_file) if path.exists()]
    with numpy_generator_kept(), simulator(task) as env:  # closed before the arrays are read: it takes memory too
        labels = [label(path, task, env) for path in files]
    splits = [read(path, one) for path, one in zip(files, labels, strict=True)]
    if len(splits) == 1:
        logger.warning("There is no validation split: %s does not exist.", validation_file)
        return splits[0], None
    return splits[0], splits[1]


def resolve_directory(directory: str | Path | None) -> Path:
    """The absolute path of a data directory, ``~`` expanded; OGBench's own if none is given."""
    return Path(directory or DEFAULT_DIRECTORY).expanduser().absolute()


def reward_keys(task: Task) -> tuple[str, ...]:
    """The arrays that the rewards of a task are computed from."""
    return ("qpos", "button_states") if _labelling_environment(task).startswith(("scene-", "puzzle-")) else ("qpos",)


def label(path: Path, task: Task, env: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rewards and masks that a task gives the rows of a file; the file is read in pieces.

    Args:
        path: an existing file.
        task: the task.
        env: its `simulator`.

    Returns:
        Two float32 arrays (R,).

    Raises:
        DataError: if the file is damaged, lacks an array, or does not fit the simulator.
    """
    keys = reward_keys(task)
    with NpzFile(path) as file:
        file.require(BASIC_KEYS + keys)
        _check_shapes(path, file.headers, task, env)
        rewards, masks = np.empty((2, file.headers["terminals"].shape[0]), np.float32)
        checks, start = RowChecks(ACTION_EPSILON), 0
        for piece in file.chunks(keys, _LABELLED):
            rows = slice(start, start := start + len(piece["qpos"]))
            checks.add(piece)
            rewards[rows], masks[rows] = _label(task, env, piece)
    raise_problems(f"{path} cannot be used", checks.problems())
    return rewards, masks


def read(
    path: Path, labels: tuple[np.ndarray, np.ndarray] | None = None, *, clip_actions: bool = True
) -> TransitionDataset:
    """Read one file; nothing of it is in memory twice.

    Args:
        path: an existing file.
        labels: rewards and masks (R,); zeros without them.
        clip_actions: as in `TransitionDataset.from_arrays`.

    Raises:
        DataError: if the file is damaged, lacks an array, or its numbers cannot be used.
    """
    with NpzFile(path) as file:
        file.require(BASIC_KEYS)
        lengths = {key: file.headers[key].shape[0] for key in BASIC_KEYS}
        raise_problems(f"{path} cannot be used", length_problem(lengths))
        arrays = {key: np.empty(file.headers[key].shape, _kept_dtype(key, file.headers[key])) for key in BASIC_KEYS}
        start = 0
        with np.errstate(over="ignore"):  # the check reports the infinities
            for piece in file.chunks(BASIC_KEYS):
                rows = slice(start, start := start + len(piece["terminals"]))
                for key, array in arrays.items():
                    array[rows] = piece[key]
    rewards, masks = np.zeros((2, start), np.float32) if labels is None else labels
    with path.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
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
            handed_over=True,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _label(task: Task, env: Any, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """OGBench's rewards and masks of some rows."""
    from ogbench.relabel_utils import relabel_dataset

    labelled = dict(inputs)
    relabel_dataset(_labelling_environment(task), env, labelled)
    return labelled["rewards"], labelled["masks"]


def _labelling_environment(task: Task) -> str:
    """The state-based environment of a task: its goals are those of the one with pixels, and it renders nothing."""
    return registered(task.environment)[0].removeprefix("visual-")


def _kept_dtype(key: str, header: ArrayHeader) -> np.dtype:
    """What an array is kept as; images and booleans stay as they are."""
    images = key == "observations" and header.dtype == np.uint8 and len(header.shape) > 2
    return header.dtype if images or header.dtype == bool else np.dtype(np.float32)


def _check_shapes(path: Path, headers: Mapping[str, ArrayHeader], task: Task, env: Any) -> None:
    """Refuse arrays that are not of equal length or whose rows do not fit the simulator."""
    pixels = registered(task.environment)[0].startswith("visual-")
    states = env.observation_space.shape  # asking for it builds the simulator's model
    expected = {
        "observations": (64, 64, 3) if pixels else states,
        "actions": env.action_space.shape,
        "qpos": (env.unwrapped.model.nq,),
    }
    if "button_states" in reward_keys(task):
        expected["button_states"] = (env.unwrapped._num_buttons,)
    problems = length_problem({key: headers[key].shape[0] for key in BASIC_KEYS + reward_keys(task)})
    for key, shape in expected.items():
        if headers[key].shape[1:] != shape:
            problems.append(f"a row of {key} has shape {headers[key].shape[1:]}, not {shape}")
    raise_problems(f"{path} does not fit the environment '{task.environment}'", problems)


# Folders of numbered files


def _load_numbered(task: Task, folder: Path) -> tuple[TransitionDataset, TransitionDataset | None]:
    """Both splits of a folder of numbered files, or of what it was converted into."""
    if registered(task.environment)[0].startswith("visual-"):
        raise DataError(f"{folder} is a folder of numbered files, of which those with pixels are not supported.")
    if folder.name.endswith(STORE_SUFFIX):
        folder = folder.with_name(folder.name.removesuffix(STORE_SUFFIX))
    with numpy_generator_kept(), simulator(task) as env:
        splits = []
        for split in ("", "-val"):
            files = _numbered_files(folder, split)
            if files or _store_of(folder, split).is_dir():
                splits.append(_open_converted(task, env, files, _store_of(folder, split)))
            elif not split:
                raise DataError(
                    f"{folder} holds no files that are numbered like cube-double-play-v0-000.npz. Copy or download "
                    "those of the dataset there (OGBench's README has the addresses)."
                )
            else:
                logger.warning("There is no validation split: %s holds no file like *-000-val.npz.", folder)
                splits.append(None)
    return splits[0], splits[1]


def _store_of(folder: Path, split: str) -> Path:
    return folder.with_name(f"{folder.name}{split}{STORE_SUFFIX}")


def _numbered_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, by number.

    Raises:
        DataError: if they are of several datasets or a number is left out.
    """
    found = {
        (match["name"], int(match["number"])): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _SHARD.fullmatch(path.name)) and (match["split"] or "") == split
    }
    names = sorted({name for name, _ in found})
    if len(names) > 1:
        raise DataError(f"{folder} holds files of several datasets: {', '.join(names)}. Give each a folder of its own.")
    numbers = sorted(number for _, number in found)
    missing = sorted(set(range(len(numbers) and numbers[-1])) - set(numbers))
    if missing:
        shown = ", ".join(f"{number:03d}" for number in missing[:5])
        raise DataError(
            f"{folder} lacks {len(missing)} of the files up to number {numbers[-1]:03d}: {shown}"
            f"{' and more' if len(missing) > 5 else ''}. Copy or download them again."
        )
    return [found[names[0], number] for number in numbers]


def _open_converted(task: Task, env: Any, files: Sequence[Path], folder: Path) -> TransitionDataset:
    """The dataset of a folder of arrays, which is made first if it is absent, with the rewards of a task."""
    if not folder.exists():
        with _alone(folder):
            if not folder.exists():
                _convert(files, folder, task, env)
    store = Store(folder)
    sources = {file.name: file.stat().st_size for file in files}
    if sources and sources != store.manifest["sources"]:
        raise DataError(
            f"{folder} was made from {len(store.manifest['sources'])} files that are not those of "
            f"{files[0].parent} ({len(files)} files; names or sizes differ). Delete {folder}; it is made again."
        )
    labels = _labels(store, task, env)
    file = RowFile(store, "transitions", env.observation_space.shape[0])
    return TransitionDataset(
        file.observations,
        file.actions,
        torch.from_numpy(labels.load("rewards")),
        torch.from_numpy(labels.load("masks")),
        torch.from_numpy(store.load("episode_ends")),
        name=folder.name.removesuffix(STORE_SUFFIX),
        checksum=store.checksum,
        file=file,
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes `folder`."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(folder))
        except OSError as error:
            raise StorageError(f"Cannot write {folder}: {error}. Permit writing there, or copy the files.") from error
        yield


def _convert(files: Sequence[Path], folder: Path, task: Task, env: Any) -> None:
    """Write the arrays of numbered files, one after the other, into one folder; actions are clipped."""
    labels = reward_keys(task)
    headers: list[Mapping[str, ArrayHeader]] = []
    ends: list[np.ndarray] = []
    rows = 0
    for path in files:
        with NpzFile(path) as file:
            file.require(BASIC_KEYS + labels)
            _check_shapes(path, file.headers, task, env)
            headers.append(file.headers)
            for piece in file.chunks(("terminals",)):
                ends.append(np.flatnonzero(piece["terminals"]) + rows)
                rows += len(piece["terminals"])
    logger.info("Converting %d files (%d rows) into %s, once", len(files), rows, folder)
    width = sum(headers[0][key].shape[1] for key in ("observations", "actions"))
    all_ends = np.concatenate(ends)
    shapes = {
        "transitions": ((rows, width), np.dtype(np.float32)),
        "episode_ends": (all_ends.shape, all_ends.dtype),
    }
    for key in labels:
        shapes[key] = (rows, *headers[0][key].shape[1:]), np.result_type(*(one[key].dtype for one in headers))

    def pieces() -> Iterator[dict[str, np.ndarray]]:
        for path in files:
            checks = RowChecks(ACTION_EPSILON)
            with NpzFile(path) as file, np.errstate(over="ignore"):
                for piece in file.chunks(BASIC_KEYS + labels):
                    checks.add(piece)
                    transitions = np.empty((len(piece["terminals"]), width), np.float32)
                    transitions[:, : -piece["actions"].shape[1]] = piece["observations"]
                    limit = 1.0 - ACTION_EPSILON
                    transitions[:, -piece["actions"].shape[1] :] = np.clip(piece["actions"], -limit, limit)
                    yield {"transitions": transitions, **{key: piece[key] for key in labels}}
            raise_problems(f"{path} cannot be used", checks.problems())
        yield {"episode_ends": all_ends}

    write(folder, shapes, pieces(), {"sources": {path.name: path.stat().st_size for path in files}})


def _labels(store: Store, task: Task, env: Any) -> Store:
    """The rewards and masks of a task, computed once and kept in a folder within the store."""
    environment = _labelling_environment(task)
    folder = store.folder / environment

    def pieces() -> Iterator[dict[str, np.ndarray]]:
        for inputs in store.chunks(reward_keys(task), 2 * _LABELLED):
            rewards, masks = _label(task, env, inputs)
            yield {"rewards": rewards, "masks": masks}

    if not folder.exists():
        logger.info("Computing the rewards of %s, once", environment)
        rows, single = (store.rows("transitions"),), np.dtype(np.float32)
        write(folder, {"rewards": (rows, single), "masks": (rows, single)}, pieces(), {"data": store.checksum})
    labels = Store(folder)
    if labels.manifest["data"] != store.checksum:
        raise DataError(f"{folder} holds the rewards of other data. Delete it; it is made again.")
    return labels


@contextlib.contextmanager
def simulator(task: Task) -> Iterator[Any]:
    """The simulator of a task, which knows its goal; for tasks with pixels the one that observes the state."""
    import gymnasium
    import ogbench  # noqa: F401  registers the environments

    with warnings.catch_warnings():
        # They are about the precision of unbounded boxes, and about a display, which is not needed.
        warnings.simplefilter("ignore")
        env: Any = gymnasium.make(_labelling_environment(task), disable_env_checker=True)
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
