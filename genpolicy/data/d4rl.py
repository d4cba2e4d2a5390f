"""D4RL's datasets, read from the official HDF5 files without the d4rl package.

A file holds ``observations``, ``actions``, ``rewards``, ``terminals`` and, in most, ``timeouts``, flat over all
episodes. The transitions are those of D4RL's ``qlearning_dataset``:

- row ``i`` goes to row ``i + 1``; the file's last row is only a successor;
- a row with a timeout is only a successor: the state after it is not in the file;
- a row with a terminal is a transition with mask 0 (D4RL's next observation is then the next episode's first one);
- without ``timeouts``, D4RL counts steps and drops those at which its environment would have cut the episode off.

As in the FQL code, antmaze's rewards are lowered by 1, and there a terminal ends the return but not the trajectory.
"""

import hashlib
import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data._validation import length_problem, raise_problems
from genpolicy.data.d4rl_catalogue import DATASETS, D4RLDataset, find_file
from genpolicy.data.dataset import TransitionDataset
from genpolicy.data.download import download as fetch
from genpolicy.data.tasks import Task
from genpolicy.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

KEYS = ("observations", "actions", "rewards", "terminals")
"""Arrays without which a file is no D4RL dataset."""
_CHUNK = 1 << 16


def load(
    task: Task, *, directory: str | Path | None = None, path: str | Path | None = None, download: bool = True
) -> tuple[TransitionDataset, None]:
    """Read the dataset of a task.

    Args:
        task: a task whose source is ``d4rl``.
        directory: where the files are or go; ``~`` is expanded; default: the environment variable
            ``D4RL_DATASET_DIR``, else ``~/.d4rl/datasets``.
        path: the file to read instead of the official one.
        download: whether to download the dataset if its file is absent.

    Returns:
        The dataset; D4RL has no validation splits.

    Raises:
        ConfigError: if h5py is not installed.
        DataError: if the file is absent and cannot be downloaded, is damaged, or does not fit the task.
        StorageError: if the directory cannot be written to.
    """
    dataset = DATASETS[task.dataset]
    if path is not None:
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise DataError(f"There is no file {file} (data.path). Give the path of an HDF5 file in D4RL's layout.")
    else:
        file = find_file(dataset, directory)
        if not file.exists():
            if not download:
                raise missing_dataset(dataset, file, "downloading is turned off")
            fetch(dataset.url, file, check=_open_and_close)
    return read(file, dataset), None


def load_legacy(
    task: Task, *, directory: str | Path | None = None, path: str | Path | None = None, download: bool = True
) -> tuple[TransitionDataset, None]:
    """Read the dataset of a task with an installed d4rl package; it stores and downloads by its own rules.

    Raises:
        ConfigError: if the package cannot be imported, or a directory is given or downloading forbidden.
    """
    from genpolicy.envs.d4rl import import_d4rl

    if directory is not None or not download:
        raise ConfigError(
            "With data.backend=d4rl the d4rl package looks for and downloads its files itself: leave data.dir out "
            "(its environment variable D4RL_DATASET_DIR sets the directory), or give data.path."
        )
    gym = import_d4rl()
    dataset = DATASETS[task.dataset]
    file = None if path is None else str(Path(path).expanduser().absolute())
    with closing(gym.make(dataset.name)) as env:
        arrays = env.get_dataset() if file is None else env.get_dataset(h5path=file)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise _missing_keys(f"d4rl's {dataset.name}", missing, arrays)
    return make_dataset(arrays, dataset, name=dataset.name, where=f"d4rl's {dataset.name}"), None


def official(path: Path) -> D4RLDataset | None:
    """The dataset that a file's name claims to be, or None."""
    return next((one for one in DATASETS.values() if path.name in (one.file_name, f"{one.name}.hdf5")), None)


def missing_dataset(dataset: D4RLDataset, file: Path, reason: str) -> DataError:
    """The error for a dataset that is not there and shall not be downloaded."""
    return DataError(
        f"Dataset '{dataset.name}' is not on this machine: {file} does not exist, and {reason}. "
        f"Copy it there from another machine or from {dataset.url}, or name a file with data.path."
    )


def read(path: Path, dataset: D4RLDataset | None = None, *, clip_actions: bool = True) -> TransitionDataset:
    """Read a file in D4RL's layout.

    Args:
        path: an existing file.
        dataset: what it should be; without it shapes are not checked and rewards are used as they are.
        clip_actions: as in `TransitionDataset.from_arrays`.

    Raises:
        ConfigError: if h5py is not installed.
        DataError: if the file is damaged, lacks an array, or does not fit the dataset.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in KEYS if not isinstance(file.get(key), h5py.Dataset)]
            if missing:
                raise _missing_keys(str(path), missing, file)
            with path.open("rb") as stream:
                checksum = hashlib.file_digest(stream, "sha256").hexdigest()
            return make_dataset(
                file, dataset, name=path.stem, where=str(path), checksum=checksum, clip_actions=clip_actions
            )
    except OSError as error:
        raise _damaged(path, error) from error


def array_shapes(path: Path) -> dict[str, dict[str, Any]]:
    """Shape and dtype of each array in a file."""
    h5py = _h5py()
    found: dict[str, dict[str, Any]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            found[name] = {"shape": list(item.shape), "dtype": str(item.dtype)}

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except OSError as error:
        raise _damaged(path, error) from error
    return found


def make_dataset(
    arrays: Mapping[str, Any],
    dataset: D4RLDataset | None,
    *,
    name: str,
    where: str,
    checksum: str | None = None,
    clip_actions: bool = True,
) -> TransitionDataset:
    """Arrange the arrays of a file (of h5py or numpy) as episodes; see the module's rules.

    Raises:
        DataError: one message with everything that is wrong; it begins with `where`.
    """
    flat = {key: _column(arrays[key][:]) for key in ("rewards", "terminals", "timeouts") if key in arrays}
    sources = {key: arrays[key] for key in ("observations", "actions")} | flat
    title = f"{where} does not fit '{dataset.name}'" if dataset else f"{where} cannot be used"
    raise_problems(title, _problems(sources, dataset))

    terminals = flat["terminals"] != 0
    if "timeouts" in flat:
        timeouts = flat["timeouts"] != 0
    else:
        timeouts = counted_timeouts(terminals, dataset.horizon if dataset else None)
    antmaze = dataset is not None and dataset.family == "antmaze"
    rows, ends = episode_rows(terminals, timeouts, terminals_end=not antmaze)
    rewards = flat["rewards"].astype(np.float32)[rows]
    try:
        return TransitionDataset.from_arrays(
            _gather(sources["observations"], rows),
            _within_bounds(_gather(sources["actions"], rows), where),
            rewards + np.float32(dataset.reward_shift) if dataset else rewards,
            (~terminals)[rows],
            ends,
            name=name,
            clip_actions=clip_actions,
            checksum=checksum,
            handed_over=True,
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def episode_rows(terminals: np.ndarray, timeouts: np.ndarray, *, terminals_end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of the file follow one another, so that all but the ends of episodes are D4RL's transitions.

    Args:
        terminals: bool (N,).
        timeouts: bool (N,).
        terminals_end: whether a terminal ends the episode. Its row is then followed by a copy of the next row, the
            successor that D4RL gives it, of which nothing but the mask's 0 is ever used in learning.

    Returns:
        The file's row for each stored row, not decreasing, and whether it ends an episode; both (R,). Rows that
        would be episodes without a transition are left out.
    """
    count = len(terminals)
    copied = terminals & ~timeouts & terminals_end
    copied[-1:] = False
    rows = np.repeat(np.arange(count), 1 + copied)
    is_copy = np.diff(rows, prepend=-1) == 0
    ends = timeouts[rows] | is_copy | (rows == count - 1)
    rows = rows + is_copy
    kept = ~(ends & np.concatenate([[True], ends[:-1]]))
    return rows[kept], ends[kept]


def counted_timeouts(terminals: np.ndarray, horizon: int | None) -> np.ndarray:
    """The timeouts that D4RL supposes in a file without any: its count of steps starts at 1 after a terminal."""
    timeouts = np.zeros(len(terminals), bool)
    step = 0
    for row in range(len(terminals) - 1):
        if horizon is not None and step == horizon - 1:
            timeouts[row] = True
            step = 0
        else:
            step = 1 if terminals[row] else step + 1
    return timeouts


def _problems(arrays: Mapping[str, Any], dataset: D4RLDataset | None) -> list[str]:
    """Everything about the arrays' types and shapes that is not as it should be."""
    problems = [
        f"{key} must hold numbers for each row, but has dtype {array.dtype} and shape {array.shape}"
        for key, array in arrays.items()
        if array.dtype.kind not in "fiub" or not array.ndim
    ]
    if problems:
        return problems
    problems = length_problem({key: len(array) for key, array in arrays.items()})
    rows = {} if dataset is None else {"observations": dataset.observation_dim, "actions": dataset.action_dim}
    for key, size in rows.items():
        if arrays[key].shape[1:] != (size,):
            problems.append(f"a row of {key} has shape {arrays[key].shape[1:]}, not ({size},)")
    return problems


def _gather(source: Any, rows: np.ndarray) -> np.ndarray:
    """Float32 rows of an array, read in pieces so that nothing is in memory twice; `rows` does not decrease."""
    gathered = np.empty((len(rows), *source.shape[1:]), np.float32)
    for start in range(0, len(source), _CHUNK):
        first, last = np.searchsorted(rows, [start, start + _CHUNK])
        gathered[first:last] = source[start : start + _CHUNK][rows[first:last] - start]
    return gathered


def _within_bounds(actions: np.ndarray, where: str) -> np.ndarray:
    """Clip in place, as the environments and the public code do, and say so."""
    if len(actions) and (actions.min() < -1.0 or actions.max() > 1.0):
        rows = (np.abs(actions) > 1.0).any(axis=-1).sum()
        logger.warning("%s: actions leave [-1, 1] in %d rows and are clipped.", where, rows)
        np.clip(actions, -1.0, 1.0, out=actions)
    return actions


def _column(array: np.ndarray) -> np.ndarray:
    """(N, 1) as (N,), as D4RL reads it."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _open_and_close(path: Path) -> None:
    """Check of a download."""
    h5py = _h5py()
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise DataError(f"What arrived is not a complete HDF5 file ({error}). Repeat the download.") from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. If it is truncated or damaged, delete it and "
        "download or copy it again."
    )


def _missing_keys(where: str, missing: list[str], present: Mapping[str, Any]) -> DataError:
    return DataError(
        f"{where} has no {' and no '.join(map(repr, missing))}; it has {', '.join(present) or 'nothing'}. It must be "
        "in D4RL's layout: download or copy it again."
    )


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("D4RL's files need the package h5py: pip install 'genpolicy[d4rl]'.") from error
    return h5py
