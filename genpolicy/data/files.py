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
from genpolicy.data._validation import length_problem, list_rows, raise_problems
from genpolicy.data.dataset import ACTION_EPSILON, TransitionDataset
from genpolicy.data.minari_metadata import PREFIX, is_dataset, locate, make_task
from genpolicy.data.npz import read_arrays
from genpolicy.data.tasks import Protocol, Task
from genpolicy.errors import ConfigError, DataError

HDF5 = (".hdf5", ".h5")
_BASIC = ("observations", "actions", "rewards", "terminals")
_FLAGS = ("terminals", "timeouts", "masks")
_KEYS = (*_BASIC, "timeouts", "masks", "next_observations")
_SHOWN_EPISODES = 5

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
    problems, _ = _examine(arrays, layout_of(arrays, file))
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
        problems, notes = _examine_minari(file)
        report = Report(str(file), "minari", problems, notes)
    else:
        arrays = _read(file)
        layout = layout_of(arrays, file)
        problems, notes = _examine(arrays, layout)
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
    for key in ("rewards", *_FLAGS):
        if key in known and known[key].ndim == 2 and known[key].shape[1] == 1:
            known[key] = known[key][:, 0]
    if note_text(arrays.get(ROWS_NOTE)) == "states":
        known["masks"], known["terminals"] = known["terminals"] == 0, known.pop("timeouts")
    return known


def _examine(arrays: dict[str, np.ndarray], layout: str) -> tuple[list[str], list[str]]:
    """Problems and notes of a file's arrays."""
    problems, notes = [], []
    optional = ("rewards",) if layout == "states" else ("terminals",) if "timeouts" in arrays else ()
    missing = [key for key in _BASIC if key not in arrays and key not in optional]
    if missing:
        problems.append(f"there is no {' and no '.join(missing)}; there are {', '.join(arrays) or 'no arrays we know'}")
    if layout == "states" and "rewards" not in arrays:
        notes.append("there are no rewards: they are taken as 0, which is enough for behavioural cloning only")
    if layout == "states" and "masks" not in arrays:
        notes.append("there are no masks: no state counts as done, every value is bootstrapped")
    sound = {}
    for key, array in arrays.items():
        wrong = _shape_problem(key, array)
        problems += wrong
        if not wrong:
            sound[key] = array
            problems += _value_problems(key, array)
            notes += _dtype_notes(key, array)
    lengths = length_problem({key: len(array) for key, array in sound.items()})
    problems += lengths
    if not lengths and sound:
        more = _step_problems(sound) if layout == "steps" else _state_problems(sound)
        problems, notes = problems + more[0], notes + more[1]
    return problems, notes


def _shape_problem(key: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind not in "fiub":
        return [f"{key} has dtype {array.dtype}; it must hold real numbers"]
    if key in ("observations", "next_observations"):
        good, expected = array.ndim >= 2, "(N, *O)"
    elif key == "actions":
        good, expected = array.ndim == 2, "(N, A)"
    else:
        good, expected = array.ndim == 1, "(N,)"
    hint = "; reshape it to (N, 1)" if array.ndim == 1 else ""
    return [] if good else [f"{key} has shape {array.shape}; it must be {expected}{hint}"]


def _value_problems(key: str, array: np.ndarray) -> list[str]:
    problems = []
    rows = array.reshape(len(array), -1)
    if key in _FLAGS:
        wrong = np.flatnonzero((array != 0) & (array != 1))
        return [f"{key} must be 0 or 1, but is not in {list_rows(wrong)}"] if len(wrong) else []
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1)
    if bad.any():
        problems.append(f"{key} has NaN or infinite values (as float32) in {list_rows(np.flatnonzero(bad))}")
    if key == "actions":
        sizes = np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=1, initial=0)
        outside = np.flatnonzero(sizes > 1 + ACTION_EPSILON)
        if len(outside):
            problems.append(
                f"actions leave [-1, 1] (up to {sizes.max():g}) in {list_rows(outside)}; rescale them by the bounds "
                "of the environment's action space"
            )
    return problems


def _dtype_notes(key: str, array: np.ndarray) -> list[str]:
    if key in _FLAGS or array.dtype in (np.float32, np.float16):
        return []
    if array.dtype == np.uint8 and array.ndim == 4:
        return []  # images stay as they are
    exact = array.dtype.kind == "b" or (array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() <= 2**24)
    loss = "exactly" if exact else "rounded to about 7 digits"
    return [f"{key} is {array.dtype}; it is converted to float32, {loss}"]


def _step_problems(arrays: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Ends of episodes in D4RL's layout."""
    problems, notes = [], []
    terminals, timeouts = _step_flags(arrays)
    ends = terminals | timeouts
    if not ends.any():
        return ["there is no episode end: terminals or timeouts must be true at the last step of each episode"], []
    if not ends[-1]:
        notes.append(f"the last row ({len(ends) - 1}) ends no episode: it is taken as cut off there")
    ends[-1] = True
    if "next_observations" not in arrays and (terminals & timeouts).any():
        rows = np.flatnonzero(terminals & timeouts)
        notes.append(f"terminals and timeouts are both true in {list_rows(rows)}: these steps are not used")
    single = ends & np.concatenate([[True], ends[:-1]])
    following = arrays.get("next_observations")
    if following is None:
        empty = np.flatnonzero(single & (timeouts | (~terminals & ends)))
        if len(empty):
            problems.append(
                f"episodes of one step that was cut off hold no transition: remove {list_rows(empty)}, or store "
                "next_observations"
            )
        notes.append(
            f"there are no next_observations: {int((ends & (timeouts | ~terminals)).sum())} steps at which an episode "
            "was cut off only serve as the state after the step before"
        )
    elif "observations" in arrays and following.shape == arrays["observations"].shape:
        states = arrays["observations"]
        jump = (following[:-1] != states[1:]).reshape(len(states) - 1, -1).any(axis=1) & ~ends[:-1]
        if jump.any():
            problems.append(
                "next_observations are not the observations of the row after within an episode in "
                f"{list_rows(np.flatnonzero(jump))}; set timeouts where episodes are cut off"
            )
    elif "observations" in arrays:
        problems.append(
            f"next_observations have shape {following.shape}, observations {arrays['observations'].shape}; they must "
            "be equal"
        )
    rows = np.flatnonzero(single & (terminals & ~timeouts if following is None else True))
    if len(rows):
        notes.append(f"there are episodes of one step: {list_rows(rows)}")
    return problems, notes


def _state_problems(arrays: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Ends of episodes in OGBench's layout."""
    if "terminals" not in arrays:
        return [], []
    ends = arrays["terminals"] != 0
    if not ends.any():
        return ["there is no episode end: terminals must be true at the last row of each episode"], []
    problems = []
    if not ends[-1]:
        problems.append(
            f"the last row ({len(ends) - 1}) does not end an episode: terminals must be true at the last row of each"
        )
    single = np.flatnonzero(ends & np.concatenate([[True], ends[:-1]]))
    if len(single):
        problems.append(f"episodes of one row hold no transition: remove {list_rows(single)}")
    return problems, []


def _step_flags(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Terminals and timeouts, all false where the file has none."""
    rows = len(next(iter(arrays.values())))
    none = np.zeros(rows, bool)
    return arrays.get("terminals", none) != 0, arrays.get("timeouts", none) != 0


def _assemble(file: Path, arrays: dict[str, np.ndarray], *, clip_actions: bool) -> TransitionDataset:
    """Arrange sound arrays as rows of states."""
    if layout_of(arrays, file) == "states":
        ends = arrays["terminals"] != 0
        rows: Any = slice(None)
        rewards = arrays.get("rewards", np.zeros(len(ends), np.float32))
        masks = arrays.get("masks", np.ones(len(ends), np.float32))
        observations = arrays["observations"]
    else:
        terminals, timeouts = _step_flags(arrays)
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


def _examine_minari(folder: Path) -> tuple[list[str], list[str]]:
    """Problems and notes of a Minari dataset, by episode and step."""
    problems: list[str] = []
    notes: list[str] = []
    counts: dict[str, int] = {}

    def add(to: list[str], kind: str, episode: int, detail: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _SHOWN_EPISODES:
            to.append(f"episode {episode}: {detail}")

    with minari.opened(folder) as dataset:
        try:
            boxes = minari.parts(dataset.observation_space, str(folder))
            low, high = minari.action_bounds(dataset.action_space, str(folder))
        except DataError as error:
            return [str(error)], []
        if dataset.env_spec is None:
            notes.append("it names no environment: there is no evaluation, unless data.environment names one")
        if np.any(low != -1) or np.any(high != 1):
            notes.append("actions are scaled from their bounds to [-1, 1]")
        notes += [
            f"{'/'.join(('observations', *keys))} is {box.dtype}; it is converted to float32"
            for keys, box in boxes
            if box.dtype != np.float32
        ]
        short = []
        for episode in minari.episodes(dataset):
            steps = len(episode.rewards)
            columns = {"/".join(("observations", *keys)): minari.pick(episode.observations, keys) for keys, _ in boxes}
            lengths = {len(array) for array in columns.values()}
            if lengths == {steps}:
                add(notes, "short", episode.id, f"one observation too few for {steps} steps; it is left out")
            elif lengths != {steps + 1}:
                add(problems, "length", episode.id, f"{sorted(lengths)} observations for {steps} steps")
            columns |= {"actions": np.asarray(episode.actions), "rewards": np.asarray(episode.rewards)}
            for key, array in columns.items():
                bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
                if len(bad):
                    add(problems, key, episode.id, f"{key} has NaN or infinite values in {list_rows(bad)}")
            actions = columns["actions"]
            outside = ((actions < low - ACTION_EPSILON) | (actions > high + ACTION_EPSILON)).any(axis=-1)
            if outside.any():
                add(
                    problems,
                    "bounds",
                    episode.id,
                    f"actions leave the action space in {list_rows(np.flatnonzero(outside))}",
                )
            ended = np.flatnonzero(np.asarray(episode.terminations)[:-1])
            if len(ended):
                add(notes, "ends", episode.id, f"a termination before the last step, in {list_rows(ended)}")
            if steps == 1:
                short.append(episode.id)
    for kind, count in counts.items():
        if count > _SHOWN_EPISODES:
            to = notes if kind in ("short", "ends") else problems
            to.append(f"the same ({kind}) in {count - _SHOWN_EPISODES} more episodes")
    if short:
        notes.append(f"there are episodes of one step: {list_rows(np.array(short)).replace('row', 'number')}")
    return problems, notes
