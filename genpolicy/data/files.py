"""Data of your own: an ``.npz`` or HDF5 file of arrays, or the folder of a Minari dataset.

A file holds ``observations`` (N, *O), ``actions`` (N, A) in [-1, 1] and ``rewards`` (N,), flat over all episodes, and
says where episodes end in one of two ways.

==================  ==================================================  ============================================
layout              rows                                                keys besides
==================  ==================================================  ============================================
steps (D4RL's)      row ``i`` is a step; the state after it is row      ``terminals`` (N,): the task ended with this
                    ``i + 1``, or ``next_observations[i]`` if the file  step, nothing is bootstrapped;
                    has that array                                      ``timeouts`` (N,): the episode was cut off
states (OGBench's)  row ``i`` is a state; the last row of an episode    ``terminals`` (N,): the last row of an
                    is a state that nothing follows, its action and     episode; ``masks`` (N,): 0 where the task is
                    reward are not used                                 done, else 1; without them it never is
==================  ==================================================  ============================================

A file with ``timeouts`` or ``next_observations`` is of the first kind, one with ``masks`` of the second; with none of
them HDF5 is of the first kind and npz of the second. Other arrays are not looked at. Steps without
``next_observations`` lose the last step of an episode that was cut off, as the state after it is not in the file; where
a row is both terminal and timeout, the timeout counts, as for D4RL.
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data import minari
from genpolicy.data._file_checks import FLAGS, examine, examine_minari, step_flags
from genpolicy.data._validation import raise_problems
from genpolicy.data.dataset import TransitionDataset
from genpolicy.data.minari_metadata import PREFIX, is_dataset, locate, make_task
from genpolicy.data.npz import read_arrays
from genpolicy.data.tasks import Protocol, Task
from genpolicy.errors import ConfigError, DataError

HDF5 = (".hdf5", ".h5")
_KEYS = ("observations", "actions", "rewards", *FLAGS, "next_observations")

ROWS_NOTE = "metadata/rows"
"""Where a file with D4RL's keys says that its rows are states: only timeouts end episodes, a terminal is mask 0."""


@dataclass(frozen=True)
class Report:
    """What `check_file` found."""

    path: str
    layout: str
    """steps, states or minari."""
    problems: list[str]
    """What has to be mended before the data can be used."""
    notes: list[str]
    """What is not wrong but should be known."""
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Shape and dtype of each array in a file."""
    summary: dict[str, Any] = field(default_factory=dict)
    """`TransitionDataset.summary`, if there are no problems."""


def load_file(path: str | Path, *, clip_actions: bool = True) -> TransitionDataset:
    """Load data of your own; the module says how a file must look.

    Args:
        path: an ``.npz``, ``.hdf5`` or ``.h5`` file, or the folder of a Minari dataset.
        clip_actions: as in `TransitionDataset.from_arrays`.

    Raises:
        DataError: if the file is absent, damaged or unsuitable: one message with everything that is wrong, with the
            rows of the file.
        ConfigError: if a package that reads it is not installed.

    Example:
        >>> dataset = load_file("mine.npz")
        >>> len(dataset)
        99
    """
    file = find(path)
    if file.is_dir():
        return minari.read_folder(file, clip_actions=clip_actions)
    arrays = _read(file)
    problems, _ = examine(arrays, layout_of(arrays, file))
    raise_problems(f"{file} cannot be used", problems)
    return _assemble(file, arrays, clip_actions=clip_actions)


def check_file(path: str | Path) -> Report:
    """Look at data of your own and tell everything that is wrong with it at once.

    Args:
        path: as in `load_file`.

    Returns:
        Problems and notes, with the numbers of the rows that they are about, in a Minari dataset those of episodes and
        of their steps.

    Raises:
        DataError: if there is no such file, or it cannot be read at all.
        ConfigError: if a package that reads it is not installed.
    """
    file = find(path)
    if file.is_dir():
        problems, notes = examine_minari(file)
        report = Report(str(file), "minari", problems, notes)
    else:
        arrays = _read(file)
        layout = layout_of(arrays, file)
        problems, notes = examine(arrays, layout)
        shapes = {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in arrays.items()}
        report = Report(str(file), layout, problems, notes, shapes)
    if problems:
        return report
    try:
        return dataclasses.replace(report, summary=load_file(file, clip_actions=False).summary())
    except DataError as error:
        return dataclasses.replace(report, problems=[str(error)])


def own_task(path: str | Path) -> Task:
    """The task of training on `path`: without an environment, unless it is a Minari dataset that has one."""
    file = find(path)
    if file.is_dir():
        return make_task(f"{PREFIX}{file}")
    return Task(
        name=file.stem,
        source="file",
        dataset=str(file),
        environment="",
        discount=0.99,
        metric="return",
        summary=f"data of your own, {file.name}",
        protocol=Protocol(1_000_000, (1_000_000,), online=None),
    )


def with_environment(task: Task, environment: str) -> Task:
    """The same task scored in another environment by its return.

    Raises:
        ConfigError: if the task is one of OGBench's or D4RL's, which have environments of their own.
    """
    if task.source not in ("file", "minari"):
        raise ConfigError(
            f"data.environment is for data of your own; '{task.name}' is scored in '{task.environment}'. "
            "Leave data.environment out, or give data.path without a task."
        )
    return dataclasses.replace(
        task, environment=environment, metric="return", reference_returns=None, difference="chosen by data.environment"
    )


def load(task: Task) -> tuple[TransitionDataset, TransitionDataset | None]:
    """The data of a task of `own_task`; ``NAME-val.npz`` beside ``NAME.npz`` is the validation split."""
    file = Path(task.dataset)
    validation = file.with_name(f"{file.stem}-val{file.suffix}")
    return load_file(file), load_file(validation) if validation.is_file() else None


def find(path: str | Path, form: str | None = None) -> Path:
    """The absolute path of a file or of a Minari dataset's folder; with `form` given a file may end in anything.

    Raises:
        DataError: if there is none, or it is of another kind.
    """
    name = str(path)
    file = Path(name.removeprefix(PREFIX)).expanduser().absolute()
    folder = locate(name)
    if is_dataset(folder) and (file.is_dir() or name.startswith(PREFIX)):
        return folder
    if not file.exists():
        raise DataError(
            f"There is no file {file}. Give the path of an .npz or .hdf5 file, or of a Minari dataset's folder."
        )
    if file.is_dir():
        raise DataError(f"{file} is a folder, but not that of a Minari dataset: it has no data/metadata.json.")
    if form is None and file.suffix not in (".npz", *HDF5):
        raise DataError(f"{file} is none of .npz, .hdf5 and .h5. Save your arrays in one of these formats.")
    return file


def layout_of(arrays: dict[str, np.ndarray], file: Path) -> str:
    """``steps`` or ``states``; see the module."""
    if "timeouts" in arrays or "next_observations" in arrays:
        return "steps"
    return "states" if "masks" in arrays or file.suffix == ".npz" else "steps"


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an HDF5 file, those in groups as ``group/name``.

    Raises:
        ConfigError: if h5py is not installed.
        DataError: if the file cannot be read.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("HDF5 files need the package h5py: pip install 'genpolicy[d4rl]'.") from error
    found: dict[str, np.ndarray] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = np.asarray(item[()])
            found[name] = np.array(value.item()) if value.dtype.kind == "O" and not value.ndim else value

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except OSError as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. If it is truncated or damaged, copy or "
            "write it again."
        ) from error
    return found


def note_text(value: np.ndarray | None) -> str:
    """A single value of a file as text; None is empty."""
    content = "" if value is None else value.item()
    return content.decode() if isinstance(content, bytes) else str(content)


def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays that we know, (N, 1) of the flat ones as (N,)."""
    arrays = read_arrays(file) if file.suffix == ".npz" else read_hdf5(file)
    known = {key: array for key, array in arrays.items() if key in _KEYS}
    for key in ("rewards", *FLAGS):
        if key in known and known[key].ndim == 2 and known[key].shape[1] == 1:
            known[key] = known[key][:, 0]
    if note_text(arrays.get(ROWS_NOTE)) == "states":
        known["masks"], known["terminals"] = known["terminals"] == 0, known.pop("timeouts")
    return known


def _assemble(file: Path, arrays: dict[str, np.ndarray], *, clip_actions: bool) -> TransitionDataset:
    """Arrange sound arrays as rows of states."""
    if layout_of(arrays, file) == "states":
        ends = arrays["terminals"] != 0
        rows: Any = slice(None)
        rewards = arrays.get("rewards", np.zeros(len(ends), np.float32))
        masks = arrays.get("masks", np.ones(len(ends), np.float32))
        observations = arrays["observations"]
    else:
        terminals, timeouts = step_flags(arrays)
        if "next_observations" in arrays:
            rows, ends, observations = closed_rows(arrays, terminals | timeouts)
        else:
            rows, ends, _ = step_rows(terminals, timeouts)
            observations = arrays["observations"][rows]
        rewards, masks = arrays["rewards"][rows], ~terminals[rows]
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        return TransitionDataset.from_arrays(
            observations,
            arrays["actions"][rows],
            rewards,
            masks,
            ends,
            name=file.stem,
            clip_actions=clip_actions,
            checksum=checksum,
        )
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def step_rows(terminals: np.ndarray, timeouts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps without next observations as states: a row that was cut off is a state that nothing follows.

    Behind a terminal, the state after which is not in the file, comes a copy of its row: its mask is 0, so that nothing
    of the copy is used. Episodes of one row that was cut off are left out.

    Returns:
        The step of each row, whether it ends an episode, and whether it is such a copy.
    """
    rows = np.repeat(np.arange(len(terminals)), 1 + (terminals & ~timeouts))
    copied = np.diff(rows, prepend=-1) == 0
    ends = copied | timeouts[rows] | (np.arange(len(rows)) == len(rows) - 1)
    kept = ~(ends & np.concatenate([[True], ends[:-1]]))
    return rows[kept], ends[kept], copied[kept]


def closed_rows(arrays: dict[str, np.ndarray], ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps with next observations as states: behind each last step of an episode comes a row with the state after it.

    Returns:
        The step of each row (an added row has that of its episode's last step), whether it ends an episode, and the
        observations.
    """
    ends = ends.copy()
    ends[-1] = True
    rows = np.repeat(np.arange(len(ends)), 1 + ends)
    added = np.diff(rows, prepend=-1) == 0
    observations = arrays["observations"][rows]
    observations[added] = arrays["next_observations"][ends]
    return rows, added, observations
