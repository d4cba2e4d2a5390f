"""Convert datasets between OGBench's npz files, D4RL's HDF5 files and Minari's folders.

Nothing is rounded, clipped or scaled: every number keeps its value and dtype. Whatever one format has no place for is
kept where loaders of the other do not look, so that converting back gives the same arrays.

=====================  ===========================  ==============================  ===============================
of an episode          npz (OGBench)                HDF5 (D4RL)                     folder (Minari)
=====================  ===========================  ==============================  ===============================
T + 1 states           rows                         rows, the last with a timeout   ``observations`` (T + 1)
T steps                rows, without the last one   rows, without the last one      ``actions``, ``rewards`` (T)
nothing to bootstrap   ``masks`` 0                  ``terminals`` 1                 ``terminations`` 1
cut off                the last row                 the last row                    ``truncations`` 1 in its last step
the last row's action  there                        there                           ``infos/last_row``
other columns          by name                      ``infos/NAME``                  ``infos/NAME``
other values           ``metadata/NAME``            ``metadata/NAME``               ``metadata.json``
=====================  ===========================  ==============================  ===============================

- D4RL's files do not have the state after a terminal. It is stored as a copy of the state before, marked in the column
  ``copied``; nothing is bootstrapped from it.
- Where D4RL's file has ``next_observations`` they become the last states, and no step is lost.
- A file that we write in D4RL's layout says ``metadata/rows = states``: only its timeouts end episodes.
- OGBench's files have no rewards. Name a task, and its rewards and masks are written; without, rewards are 0.
- A Dict observation becomes one vector (`genpolicy.data.minari`), and a Dict again in Minari's format. Minari's
  episodes lose their seeds and options, infos that are not numbers for each step, and need all their observations.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genpolicy.data import minari
from genpolicy.data._validation import length_problem, raise_problems
from genpolicy.data.d4rl import counted_timeouts, official
from genpolicy.data.files import HDF5, ROWS_NOTE, closed_rows, find, layout_of, note_text, read_hdf5, step_rows
from genpolicy.data.minari_metadata import read as read_metadata
from genpolicy.data.minari_metadata import root
from genpolicy.data.npz import read_arrays
from genpolicy.data.tasks import Task, get_task
from genpolicy.errors import ConfigError, DataError, StorageError

logger = logging.getLogger(__name__)

Format = Literal["ogbench", "d4rl", "minari"]

_MINARI, _WITHOUT, _STEP_INFOS = "metadata/minari", "metadata/without", "metadata/step_infos"
_OPTIONAL = ("rewards", "masks")
_OF_THE_COPY = ("total_episodes", "total_steps", "data_format", "dataset_size", "jpeg_encoding", "minari_version")


@dataclass
class Table:
    """A dataset between two formats: rows of states, of which the last of each episode begins no step."""

    columns: dict[str, np.ndarray]
    """(R, ...) each: observations, actions, rewards and masks if there are any, and others."""
    ends: np.ndarray
    """Whether a row is its episode's last, bool (R,)."""
    notes: dict[str, np.ndarray]
    """Values that are not one for each row, by names that begin with ``metadata/``."""


def convert_dataset(
    source: str | Path,
    target: str | Path,
    *,
    source_format: Format | None = None,
    target_format: Format | None = None,
    task: str | None = None,
    environment: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the dataset `source` as `target` in another format; the target appears when it is complete.

    Args:
        source: an ``.npz`` or ``.hdf5`` file, a Minari dataset's folder, or ``minari:ID``.
        target: a file ending in ``.npz`` or ``.hdf5``, or else the folder of a Minari dataset.
        source_format: of the source; told from its name if not given.
        target_format: of the target; told from its name if not given.
        task: of OGBench's, whose rewards and masks are computed for the source; or of D4RL's, whose environment and
            reference returns a Minari dataset shall name (its rewards are the source's).
        environment: Gymnasium id that a Minari dataset shall name; by default the task's.
        overwrite: whether an existing target is replaced.

    Returns:
        The absolute path of the target.

    Raises:
        DataError: if the source is absent, damaged or of an unknown format.
        ConfigError: if the target exists, an option does not fit, or a package is missing.
        StorageError: if the disk refuses.
    """
    goal = Path(target).expanduser().absolute()
    form = target_format or _format_of(goal)
    if goal.exists() and not overwrite:
        raise ConfigError(f"{goal} exists already. Choose another name, or replace it with overwrite (--overwrite).")
    if environment is not None and form != "minari":
        raise ConfigError("Only Minari's format names an environment. Leave environment (--environment) out.")
    file = minari.fetch(str(source)) if str(source).startswith("minari:") else find(source, source_format)
    if file == goal:
        raise ConfigError(f"Source and target are both {file}. Choose another target.")
    named = None if task is None else get_task(task)
    computed = named is not None and named.source == "ogbench"
    if named is not None and not computed and form != "minari":
        raise ConfigError(
            f"Only Minari's format names the environment of '{task}'; rewards are computed for OGBench's single "
            "tasks alone. Leave task (--task) out."
        )
    table = _read(file, source_format or _format_of(file))
    if named is not None:
        environment = environment or named.environment
        if computed:
            _label(table, file, named)
    raise_problems(f"{file} cannot be converted", length_problem({key: len(a) for key, a in table.columns.items()}))
    with _appearing(goal) as part:
        if form == "ogbench":
            _write_npz(part, table)
        elif form == "d4rl":
            _write_hdf5(part, table)
        else:
            _write_minari(part, table, _identity(goal), environment, named)
    return goal


def _format_of(path: Path) -> Format:
    return "ogbench" if path.suffix == ".npz" else "d4rl" if path.suffix in HDF5 else "minari"


def _read(file: Path, form: Format) -> Table:
    if form == "minari":
        return _read_minari(file)
    arrays = read_arrays(file) if form == "ogbench" else read_hdf5(file)
    missing = [key for key in ("observations", "actions", "terminals") if key not in arrays]
    if missing:
        raise DataError(
            f"{file} has no {' and no '.join(map(repr, missing))}; it has {', '.join(arrays) or 'nothing'}."
        )
    raise_problems(
        f"{file} cannot be converted",
        [f"{key} is a single value" for key in ("observations", "actions", "terminals") if not arrays[key].ndim],
    )
    rows = len(arrays["observations"])
    notes = {
        key if key.startswith("metadata/") else f"metadata/{key}": array
        for key, array in arrays.items()
        if key.startswith("metadata/") or not array.ndim or len(array) != rows
    }
    wrong = [key for key in ("actions", "rewards", "terminals", "timeouts", "masks") if f"metadata/{key}" in notes]
    raise_problems(
        f"{file} cannot be converted", [f"{key} has {len(arrays[key])} rows, observations {rows}" for key in wrong]
    )
    columns = {
        key.removeprefix("infos/"): array
        for key, array in arrays.items()
        if key not in notes and f"metadata/{key}" not in notes
    }
    for key in ("rewards", "terminals", "timeouts", "masks"):
        if key in columns and columns[key].shape == (rows, 1):
            columns[key] = columns[key][:, 0]
    if layout_of(arrays, file) == "states" and form == "ogbench":
        table = Table(columns, columns.pop("terminals") != 0, notes)
    else:
        table = _from_steps(columns, notes, file)
    for key in note_text(table.notes.pop(_WITHOUT, None)).split():
        table.columns.pop(key, None)
    return table


def _from_steps(columns: dict[str, np.ndarray], notes: dict[str, np.ndarray], file: Path) -> Table:
    """Arrange the rows of D4RL's layout as states."""
    terminals = columns.pop("terminals") != 0
    dataset = official(file)
    if "timeouts" in columns:
        timeouts = columns.pop("timeouts") != 0
    else:
        timeouts = counted_timeouts(terminals, dataset.horizon if dataset else None)
    masks = (~terminals).astype(np.float32)
    states = note_text(notes.pop(ROWS_NOTE, None)) == "states" or (dataset is not None and dataset.family == "antmaze")
    if "next_observations" in columns:
        rows, ends, observations = closed_rows(columns, terminals | timeouts)
        del columns["next_observations"]
        columns = {key: array[rows] for key, array in columns.items()}
        columns["observations"], columns["masks"] = observations, masks[rows]
        for key in ("actions", "rewards", "masks"):
            columns[key][ends] = 1 if key == "masks" else 0
        return Table(columns, ends, notes)
    rows, ends, copied = step_rows(terminals & (not states), timeouts)
    columns = {key: array[rows] for key, array in (columns | {"masks": masks}).items()}
    if copied.any():
        columns["copied"] = copied
    unmarked = ends & ~copied & ~timeouts[rows]
    if unmarked.any():
        columns["unmarked_end"] = unmarked
    return Table(columns, ends, notes)


def _write_npz(path: Path, table: Table) -> None:
    arrays = table.columns | {"terminals": table.ends} | table.notes
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]


def _write_hdf5(path: Path, table: Table) -> None:
    import h5py

    table = _with_optional(table)
    columns = dict(table.columns)
    copied = columns.pop("copied", np.zeros(len(table.ends), bool)) != 0
    unmarked = columns.pop("unmarked_end", np.zeros(len(table.ends), bool)) != 0
    terminals = columns.pop("masks") == 0
    notes = dict(table.notes)
    if np.any(terminals & ~table.ends & ~np.append(copied[1:], False)):
        notes[ROWS_NOTE] = np.array(b"states")
    columns |= {"terminals": terminals & ~copied, "timeouts": table.ends & ~copied & ~unmarked}
    top = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(path, "w") as file:
        for key, array in columns.items():
            name = key if key in top else f"infos/{key}"
            file.create_dataset(name, data=array[~copied], compression="gzip", shuffle=True)
        for key, value in notes.items():
            file[key] = value.astype(bytes) if value.dtype.kind == "U" else value


def _with_optional(table: Table) -> Table:
    """The table with rewards of 0 and masks of 1 where it has none, and a note of which these are."""
    rows = len(table.ends)
    made = {"rewards": np.zeros(rows, np.float32), "masks": np.ones(rows, np.float32)}
    without = [key for key in _OPTIONAL if key not in table.columns]
    notes = table.notes | ({_WITHOUT: np.array(" ".join(without))} if without else {})
    return Table(made | table.columns, table.ends, notes)


def _read_minari(folder: Path) -> Table:
    """The rows of a Minari dataset; the row after the last step has zeros where a step has numbers, and mask 1."""
    metadata = read_metadata(folder)
    kept = metadata.pop("genpolicy", {})
    pieces: dict[str, list[np.ndarray]] = {}
    ends: list[np.ndarray] = []
    of_steps: set[str] = set()
    with minari.opened(folder) as dataset:
        boxes = minari.parts(dataset.observation_space, str(folder))
        minari.action_bounds(dataset.action_space, str(folder))
        for episode in minari.complete_episodes(dataset, boxes):
            steps = len(episode.rewards)
            parts = [minari.pick(episode.observations, keys) for keys, _ in boxes]
            row: dict[str, np.ndarray] = {"observations": np.concatenate(parts, axis=1)}
            terminations = np.asarray(episode.terminations, bool)
            truncations = np.asarray(episode.truncations, bool)
            last = (episode.infos or {}).get("last_row", {})
            row["actions"] = _padded(np.asarray(episode.actions), last.get("actions"))
            row["rewards"] = _padded(np.asarray(episode.rewards), last.get("rewards"))
            row["masks"] = _padded((~terminations).astype(np.float32), last.get("masks", np.ones(1, np.float32)))
            usual = np.zeros(steps, bool)
            usual[-1] = not terminations[-1]
            row["truncations"] = _padded(truncations != usual, None)  # marks the unusual ones
            for key, array in _flat_infos(episode.infos or {}):
                if len(array) == steps:
                    of_steps.add(key)
                if array.dtype.kind in "fiub" and len(array) in (steps, steps + 1):
                    row[key] = array if len(array) > steps else _padded(array, None)
            for key, array in row.items():
                pieces.setdefault(key, []).append(array)
            ends.append(np.arange(steps + 1) == steps)
    count = len(ends)
    left_out = sorted(key for key, arrays in pieces.items() if len(arrays) != count or not _alike(arrays))
    if left_out:
        logger.warning("%s: %s differ between episodes and are left out.", folder, ", ".join(left_out))
    columns = {key: np.concatenate(arrays) for key, arrays in pieces.items() if key not in left_out}
    if not columns.get("truncations", np.zeros(1, bool)).any():
        columns.pop("truncations", None)
    without = str(kept.pop("without", "")).split()
    notes = {f"metadata/{key}": np.array(value) for key, value in kept.items()}
    if "genpolicy" not in read_metadata(folder):
        notes[_MINARI] = np.array(json.dumps(metadata))
        if of_steps:
            notes[_STEP_INFOS] = np.array(" ".join(sorted(of_steps)))
    table = Table(columns, np.concatenate([np.empty(0, bool), *ends]), notes)
    for key in without:
        table.columns.pop(key, None)
    return table


def _padded(steps: np.ndarray, last: np.ndarray | None) -> np.ndarray:
    """Steps (T, ...) with a row behind them: `last` (1, ...), or zeros."""
    return np.concatenate([steps, np.zeros_like(steps[:1]) if last is None else np.asarray(last, steps.dtype)])


def _flat_infos(infos: dict[str, Any], above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in infos.items():
        if above or key != "last_row":
            if isinstance(value, dict):
                yield from _flat_infos(value, f"{above}{key}/")
            elif np.ndim(value):
                yield f"{above}{key}", np.asarray(value)


def _alike(arrays: list[np.ndarray]) -> bool:
    return len({(array.shape[1:], array.dtype) for array in arrays}) == 1


def _write_minari(path: Path, table: Table, identity: str, environment: str | None, task: Task | None) -> None:
    """Write a Minari dataset's folder with Minari's own storage."""
    package = minari.import_minari()
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    table = _with_optional(table)
    described = json.loads(note_text(table.notes.get(_MINARI)) or "{}")
    spaces = _spaces(table, described)
    step_infos = note_text(table.notes.get(_STEP_INFOS)).split()
    known = ("observations", "actions", *_OPTIONAL, "truncations")
    (path / "data").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = MinariStorage.new(path / "data", *spaces, data_format="hdf5", jpeg_encoding=False)
        lasts = np.flatnonzero(table.ends)
        for first, last in zip(np.concatenate([[0], lasts[:-1] + 1]), lasts, strict=True):
            row = {key: array[first : last + 1] for key, array in table.columns.items()}
            infos: dict[str, Any] = {}
            for key, array in row.items():
                if key not in known:
                    _nest(infos, key, array[:-1] if key in step_infos else array)
            ending = {key: row[key][-1:] for key in ("actions", "rewards", "masks")}
            if ending["actions"].any() or ending["rewards"].any() or not ending["masks"].all():
                infos["last_row"] = ending
            terminations = row["masks"][:-1] == 0
            truncations = np.zeros(last - first, bool)
            truncations[-1:] = ~terminations[-1:]
            if "truncations" in row:
                truncations ^= row["truncations"][:-1]
            storage.update_episodes(
                [
                    EpisodeBuffer(
                        observations=_as_space(row["observations"], spaces[0]),
                        actions=row["actions"][:-1],  # pyright: ignore[reportArgumentType]
                        rewards=row["rewards"][:-1],  # pyright: ignore[reportArgumentType]
                        terminations=terminations,  # pyright: ignore[reportArgumentType]
                        truncations=truncations,  # pyright: ignore[reportArgumentType]
                        infos=infos,
                    )
                ]
            )
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata |= {key: value for key, value in described.items() if key not in _OF_THE_COPY}
    metadata |= {"dataset_id": described.get("dataset_id", identity), "minari_version": package.__version__}
    if environment is not None:
        metadata["env_spec"] = _spec(environment)
    if task is not None and task.reference_returns is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = task.reference_returns
    if not described:
        arrays = [key for key, value in table.notes.items() if value.ndim]
        if arrays:
            logger.warning("Minari's metadata have no place for arrays: %s are left out.", ", ".join(arrays))
        metadata["genpolicy"] = {
            key.removeprefix("metadata/"): note_text(value) for key, value in table.notes.items() if not value.ndim
        }
    file.write_text(json.dumps(metadata))


def _spaces(table: Table, described: dict[str, Any]) -> tuple[Any, Any]:
    """Spaces of observations and actions: those that the dataset had in Minari's format, or Boxes."""
    from gymnasium.spaces import Box
    from minari.serialization import deserialize_space

    if described:
        return deserialize_space(described["observation_space"]), deserialize_space(described["action_space"])
    observations, actions = table.columns["observations"], table.columns["actions"]
    if observations.dtype.kind == "f":
        space = Box(-np.inf, np.inf, observations.shape[1:], observations.dtype.type)
    else:
        limits = np.iinfo(observations.dtype)
        space = Box(limits.min, limits.max, observations.shape[1:], observations.dtype.type)
    return space, Box(-1, 1, actions.shape[1:], actions.dtype.type)


def _as_space(rows: np.ndarray, space: Any) -> Any:
    """Rows of vectors in the shape and dtype of their space; the reverse of `genpolicy.data.minari.pick`."""
    boxes = minari.parts(space, "the target")
    if boxes == [((), space)]:
        return rows.reshape(len(rows), *space.shape).astype(space.dtype, copy=False)
    found: dict[str, Any] = {}
    begin = 0
    for keys, box in boxes:
        end = begin + int(np.prod(box.shape))
        part = rows[:, begin:end].reshape(len(rows), *box.shape).astype(box.dtype, copy=False)
        _nest(found, "/".join(keys), part)
        begin = end
    return found


def _nest(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, name = path.split("/")
    for key in above:
        tree = tree.setdefault(key, {})
    tree[name] = value


def _spec(environment: str) -> str:
    """The JSON specification of a registered environment."""
    import gymnasium
    import ogbench  # noqa: F401  registers its environments

    import genpolicy.envs.d4rl  # noqa: F401  registers those of D4RL's tasks

    try:
        return gymnasium.spec(environment).to_json()
    except (gymnasium.error.Error, ImportError) as error:
        raise ConfigError(f"Gymnasium knows no environment '{environment}': {error}") from error


def _label(table: Table, file: Path, task: Task) -> None:
    """Put a task's rewards and masks into the table."""
    from genpolicy.data import load_dataset

    labelled = load_dataset(task, path=file, download=False)[0]
    table.columns["rewards"], table.columns["masks"] = labelled.rewards.numpy(), labelled.masks.numpy()


def _identity(goal: Path) -> str:
    """A Minari id for a folder: its place among Minari's datasets, or its name with a version."""
    place = goal.relative_to(root()).as_posix() if goal.is_relative_to(root()) else goal.name
    place = re.sub(r"[^-\w/]", "-", place)
    return place if re.search(r"-v\d+$", place) else f"{place}-v0"


@contextmanager
def _appearing(goal: Path) -> Iterator[Path]:
    """A path beside `goal` to write to, which takes its place at the end, or vanishes with an error."""
    created = [parent for parent in goal.parents if not parent.exists()]
    done = False
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=goal.parent, prefix=f".{goal.name}-") as temporary:
            part = Path(temporary, goal.name)
            yield part
            if goal.is_dir():
                shutil.rmtree(goal)
            os.replace(part, goal)
            done = True
    except OSError as error:
        if isinstance(error, DataError | StorageError):
            raise
        raise StorageError(f"Cannot write {goal}: {error}. Free space there, or choose another target.") from error
    finally:
        if not done:
            for parent in created:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
