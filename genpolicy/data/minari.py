"""Minari's datasets: read, downloaded if absent, and arranged as transitions.

An episode of T steps has T + 1 observations, the last of which nothing follows, so that it is T + 1 rows of a
`TransitionDataset` and nothing is lost. A termination gives its transition the mask 0. A truncation, and an end without
either flag, is a transition like the others: its value is bootstrapped from the observation after it.

**Observations** are a Box, or a Dict of Boxes (nested ones too), which is flattened: the parts one after another in the
alphabetic order of their keys, the order of ``gymnasium.spaces.flatten``. For a goal environment these are
``achieved_goal``, ``desired_goal``, ``observation``, and all of them are used.

**Actions** are a bounded Box, scaled to [-1, 1] by its bounds, as the environment's are when it is scored.

What is special about antmaze: `genpolicy.data.minari_metadata`.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data._validation import list_rows, raise_problems
from genpolicy.data.dataset import TransitionDataset
from genpolicy.data.minari_metadata import (
    GOAL_SHIFT,
    PREFIX,
    ends_at_goal,
    is_dataset,
    locate,
    make_task,
    read,
    reward_shift,
    root,
)
from genpolicy.data.tasks import Task
from genpolicy.errors import ConfigError, DataError, StorageError

__all__ = ["fetch", "load", "prepare", "read_folder", "reward_shift"]

logger = logging.getLogger(__name__)

_EPISODES = 16


def load(
    task: Task, *, directory: str | Path | None = None, path: str | Path | None = None, download: bool = True
) -> tuple[TransitionDataset, None]:
    """Read the dataset of a task.

    Args:
        task: a task whose source is ``minari``.
        directory: where the datasets are or go; default ``MINARI_DATASETS_PATH``, else ``~/.minari/datasets``.
        path: the folder to read in place of the task's own.
        download: whether to download the dataset if it is absent.

    Returns:
        The dataset; Minari has no validation splits.

    Raises:
        ConfigError: if minari is not installed.
        DataError: if the dataset is absent and cannot be downloaded, is damaged, or its spaces are not supported.
        StorageError: if the directory cannot be written to.
    """
    if path is None:
        return read_folder(fetch(task.dataset, directory, download=download)), None
    return read_folder(locate(str(path))), None


def prepare(task: Task, directory: str | Path | None = None, *, path: str | Path | None = None) -> Task:
    """The task with what its dataset says of environment and scores; downloads the dataset if it is absent.

    Args:
        task: a task whose source is ``minari``, as `genpolicy.data.get_task` makes it.
        directory: where the datasets are or go.
        path: the folder that is read in place of the task's own.
    """
    folder = fetch(task.dataset, directory) if path is None else locate(str(path))
    read(folder)  # says what is missing
    return make_task(f"{PREFIX}{folder}")


def fetch(name: str, directory: str | Path | None = None, *, download: bool = True) -> Path:
    """The folder of a dataset, downloaded by Minari if need be: it arrives whole or not at all.

    Args:
        name: an id or a folder.
        directory: where the datasets are or go.
        download: whether to download it if it is absent.

    Raises:
        ConfigError: if minari is not installed.
        DataError: if it is absent and cannot be downloaded.
        StorageError: if the directory cannot be written to.
    """
    folder = locate(name, directory)
    if is_dataset(folder):
        return folder
    identity = name.removeprefix(PREFIX)
    if Path(identity).expanduser().is_absolute() or identity.startswith("."):
        read(folder)  # says what is missing
    if not download:
        raise _absent(identity, folder, "downloading is turned off")
    _download(identity, folder, root(directory))
    return folder


def read_folder(folder: Path, *, clip_actions: bool = True) -> TransitionDataset:
    """Read a dataset's folder.

    Args:
        folder: the one that holds ``data/``.
        clip_actions: as in `TransitionDataset.from_arrays`.

    Raises:
        ConfigError: if minari is not installed.
        DataError: if the dataset is damaged or its spaces are not supported.
    """
    with opened(folder) as dataset:
        boxes = parts(dataset.observation_space, str(folder))
        bounds = action_bounds(dataset.action_space, str(folder))
        arrays = _gather(dataset, boxes, str(folder))
    arrays["actions"] = _scaled(arrays["actions"], *bounds)
    if ends_at_goal(read(folder)):
        arrays = _end_at_goal(arrays)
    title = f"minari:{dataset.id}"
    try:
        return TransitionDataset.from_arrays(
            **arrays, name=title, clip_actions=clip_actions, checksum=_checksum(folder), handed_over=True
        )
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """The ``minari.MinariDataset`` in a folder; errors of reading it become a `DataError`."""
    minari = import_minari()
    metadata = read(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the precision of unbounded boxes
            yield minari.MinariDataset(str(folder / "data"))
    except (DataError, ConfigError):
        raise
    except ImportError as error:
        form = metadata.get("data_format", "hdf5")
        raise ConfigError(
            f"{folder} is stored as '{form}', which needs another package: {error} "
            f"(pip install 'genpolicy[minari]', for Arrow also 'minari[arrow]')."
        ) from error
    except (OSError, KeyError, ValueError, AssertionError, TypeError) as error:
        raise DataError(
            f"The Minari dataset in {folder} cannot be read: {type(error).__name__}: {error}. If it is truncated or "
            "damaged, delete the folder and download or copy it again."
        ) from error


def import_minari() -> Any:
    """Import minari.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise ConfigError("Minari's datasets need the package minari: pip install 'genpolicy[minari]'.") from error
    return minari


def parts(space: Any, where: str) -> list[tuple[tuple[str, ...], Any]]:
    """The Boxes that an observation is made of: their keys in the Dict, none for a Box, and the Box, in order.

    Raises:
        DataError: if the space holds anything but vectors of real numbers.
    """
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        return [((key, *keys), box) for key in sorted(space.spaces) for keys, box in parts(space.spaces[key], where)]
    image = isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1
    if not isinstance(space, Box) or image:
        raise DataError(
            f"{where}: observations in the space {space} are not supported. They must be a Box of real numbers or a "
            "Dict of such Boxes; images are read from OGBench's files only."
        )
    return [((), space)]


def pick(observations: Any, keys: tuple[str, ...]) -> np.ndarray:
    """The part of an episode's observations that stands under `keys`, as (T + 1, size)."""
    for key in keys:
        observations = observations[key]
    array = np.asarray(observations)
    return array.reshape(len(array), -1)


def action_bounds(space: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action, (A,).

    Raises:
        DataError: if actions are not vectors within bounds.
    """
    from gymnasium.spaces import Box

    if not (isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded()):
        raise DataError(f"{where}: actions in the space {space} are not supported. They must be a bounded Box (A,).")
    return space.low.astype(np.float64), space.high.astype(np.float64)


def episodes(dataset: Any) -> Iterator[Any]:
    """The episodes in order, a few at a time: what the file's reader keeps in memory grows until it is closed."""
    for start in range(0, dataset.total_episodes, _EPISODES):
        yield from dataset.iterate_episodes(dataset.episode_indices[start : start + _EPISODES])


def complete_episodes(dataset: Any, boxes: list[tuple[tuple[str, ...], Any]]) -> Iterator[Any]:
    """The episodes, without those that lack an observation (Minari's issue 199), of which a warning is given."""
    left_out = []
    for episode in episodes(dataset):
        steps = len(episode.rewards)
        lengths = {len(pick(episode.observations, keys)) for keys, _ in boxes}
        if lengths == {steps}:
            left_out.append(int(episode.id))
            continue
        wrong = [
            f"{key} has {len(values)} rows"
            for key in ("actions", "terminations", "truncations")
            if len(values := getattr(episode, key)) != steps
        ]
        if lengths != {steps + 1}:
            wrong.append(f"observations have {sorted(lengths)} rows")
        raise_problems(f"Episode {episode.id} of minari:{dataset.id} has {steps} rewards, but", wrong)
        if steps:
            yield episode
    if left_out:
        logger.warning(
            "minari:%s: %d episodes (%s) have one observation too few and are left out.",
            dataset.id,
            len(left_out),
            list_rows(np.array(left_out)).replace("row", "number"),
        )


def _gather(dataset: Any, boxes: list[tuple[tuple[str, ...], Any]], where: str) -> dict[str, np.ndarray]:
    """The rows of all episodes, each array written once."""
    rows = dataset.total_steps + dataset.total_episodes
    sizes = [int(np.prod(box.shape)) for _, box in boxes]
    arrays = {
        "observations": np.zeros((rows, sum(sizes)), np.float32),
        "actions": np.zeros((rows, dataset.action_space.shape[0]), np.float32),
        "rewards": np.zeros(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": np.zeros(rows, bool),
    }
    start = 0
    for episode in complete_episodes(dataset, boxes):
        end = start + len(episode.rewards)
        if end >= rows:
            raise DataError(f"{where} holds more steps than its metadata say. Download or copy it again.")
        column = 0
        for (keys, _), size in zip(boxes, sizes, strict=True):
            arrays["observations"][start : end + 1, column : column + size] = pick(episode.observations, keys)
            column += size
        arrays["actions"][start:end] = episode.actions
        arrays["rewards"][start:end] = episode.rewards
        arrays["masks"][start:end] = ~np.asarray(episode.terminations, bool)
        arrays["terminals"][end] = True
        start = end + 1
    return {key: array[:start] for key, array in arrays.items()}


def _scaled(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions as shares of their bounds, in [-1, 1]; the very same array if these are the bounds."""
    if np.all(low == -1) and np.all(high == 1):
        return actions
    return (2 * (actions - low) / (high - low) - 1).astype(np.float32)


def _end_at_goal(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut episodes behind the first reward of 1, terminate them there, and lower rewards by 1."""
    ends = np.flatnonzero(arrays["terminals"])
    kept = np.ones(len(arrays["rewards"]), bool)
    for start, end in zip(np.concatenate([[0], ends[:-1] + 1]), ends, strict=True):
        reached = np.flatnonzero(arrays["rewards"][start:end] == 1)
        if len(reached):
            last = start + reached[0]
            arrays["masks"][last] = 0
            arrays["terminals"][last + 1] = True
            kept[last + 2 : end + 1] = False
    arrays["rewards"] += GOAL_SHIFT
    return {key: array[kept] for key, array in arrays.items()}


def _download(identity: str, folder: Path, datasets: Path) -> None:
    """Let Minari download into a directory of its own beside the datasets, and put the complete dataset in place."""
    minari = import_minari()
    created = [parent for parent in (datasets, *datasets.parents) if not parent.exists()]
    before = os.environ.get("MINARI_DATASETS_PATH")
    logger.info("Downloading %s to %s", identity, folder)
    try:
        datasets.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=datasets, prefix=".download-") as temporary:
            os.environ["MINARI_DATASETS_PATH"] = temporary
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                minari.download_dataset(identity)
            arrived = Path(temporary, identity)
            read(arrived)
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(arrived, folder)
    except ImportError as error:
        raise ConfigError(
            f"Minari needs another package to download '{identity}': {error} (pip install 'genpolicy[minari]')."
        ) from error
    except PermissionError as error:
        raise StorageError(f"Cannot store '{identity}' in {datasets}: {error}. Set data.dir.") from error
    except Exception as error:  # of whichever package carries the download: its errors have no common class
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _absent(identity, folder, f"it could not be downloaded ({type(error).__name__}: {reason})") from error
    finally:
        if before is None:
            os.environ.pop("MINARI_DATASETS_PATH", None)
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
        for parent in created:
            with suppress(OSError):
                parent.rmdir()  # only if it is empty


def _absent(identity: str, folder: Path, reason: str) -> DataError:
    return DataError(
        f"Minari dataset '{identity}' is not on this machine: {folder} does not exist, and {reason}. Run "
        f"`minari download {identity}` on a machine with a network and copy the folder there, or name a folder with "
        "data.path."
    )


def _checksum(folder: Path) -> str:
    """The sha256 over the names and contents of all files of the data."""
    digest = hashlib.sha256()
    for file in sorted((folder / "data").rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
