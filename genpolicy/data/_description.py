"""What is in a dataset's file, as plain numbers."""

import dataclasses
from pathlib import Path
from typing import Any

from genpolicy.data import d4rl, minari, ogbench
from genpolicy.data.d4rl_catalogue import DATASETS
from genpolicy.data.minari_metadata import PREFIX, is_dataset, locate, make_task
from genpolicy.data.npz import NpzFile
from genpolicy.data.tasks import Task, list_tasks
from genpolicy.errors import DataError, suggest

_HDF5 = (".hdf5", ".h5")


def describe(path_or_id: str | Path, directory: str | Path | None = None) -> dict[str, Any]:
    """Describe a dataset in numbers, strings and lists; nothing is downloaded.

    Args:
        path_or_id: the path of an ``.npz`` or ``.hdf5`` file or of a Minari dataset's folder, the name of a dataset, or
            the name of a task.
        directory: where named datasets are; default ``~/.ogbench/data``, for D4RL's ``~/.d4rl/datasets``.

    Returns:
        What `TransitionDataset.summary` gives (``rewards`` only if the file or a task tells them; actions as stored),
        and

        - ``path``, ``bytes``: of the file
        - ``task``: the task's name, or None
        - ``arrays``: shape and dtype of each array in the file
        - ``validation``: the path of the validation split, or None
        - ``source_note``: the path of a file beside it that says where it comes from, or None
        - of a `genpolicy.data.Task` also ``discount``, ``metric``, ``protocol``, ``reference_returns``, ``difference``

    Raises:
        DataError: if there is no such file or dataset, or the file is damaged or does not fit the task.
    """
    if str(path_or_id).startswith(PREFIX) or is_dataset(Path(path_or_id).expanduser()):
        return _minari(locate(str(path_or_id), directory))
    path, task = _locate(path_or_id, directory)
    validation = path.with_name(f"{path.stem}-val.npz")
    notes = (path.with_name(f"{path.stem.removesuffix('-val')}.json"), path.with_name("README.md"))
    info: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "task": task.name if task else None,
        "validation": str(validation) if validation.exists() else None,
        "source_note": next((str(note) for note in notes if note.exists()), None),
    }
    if task:
        kept = ("discount", "metric", "protocol", "reference_returns", "difference")
        info |= {key: value for key, value in dataclasses.asdict(task).items() if key in kept}
    if path.suffix in _HDF5:
        arrays = d4rl.array_shapes(path)
        dataset = DATASETS[task.dataset] if task else d4rl.official(path)
        return info | {"arrays": arrays} | d4rl.read(path, dataset, clip_actions=False).summary()
    return info | _npz(path, task)


def _minari(folder: Path) -> dict[str, Any]:
    """A Minari dataset: its summary, scaled to actions in [-1, 1], and what it says of itself."""
    summary = minari.read_folder(folder, clip_actions=False).summary()
    task = make_task(f"{PREFIX}{folder}")
    kept = ("discount", "metric", "reference_returns", "difference", "environment")
    return {
        "path": str(folder),
        "bytes": sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file()),
        "task": task.name,
        "validation": None,
        **{key: value for key, value in dataclasses.asdict(task).items() if key in kept},
        **summary,
    }


def _npz(path: Path, task: Task | None) -> dict[str, Any]:
    """The arrays and the summary of a file in OGBench's layout."""
    with NpzFile(path) as file:
        arrays = {key: {"shape": list(one.shape), "dtype": str(one.dtype)} for key, one in file.headers.items()}
    info: dict[str, Any] = {"arrays": arrays}
    if task:
        with ogbench.numpy_generator_kept(), ogbench.simulator(task) as env:
            labels = ogbench.label(path, task, env)
        return info | ogbench.read(path, labels, clip_actions=False).summary()
    info |= ogbench.read(path, clip_actions=False).summary()
    del info["rewards"]
    return info


def _locate(path_or_id: str | Path, directory: str | Path | None) -> tuple[Path, Task | None]:
    """The file that a path, a dataset's name or a task's name stands for, and the task if it is one."""
    name = str(path_or_id)
    if name.endswith((".npz", *_HDF5)):
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise DataError(
                f"There is no file {path}. Give the path of an .npz or .hdf5 file, or a dataset's or task's name."
            )
        return path, None
    tasks = {task.name: task for task in list_tasks()}
    datasets = {task.dataset for task in tasks.values()}
    task = tasks.get(name)
    if name in DATASETS:
        path = d4rl.find_file(DATASETS[name], directory)
        if not path.exists():
            raise d4rl.missing_dataset(DATASETS[name], path, "a description downloads nothing")
        return path, task
    folder = ogbench.resolve_directory(directory)
    stem = task.dataset if task else name
    path = folder / f"{stem}.npz"
    if not path.exists() and stem in datasets:
        raise ogbench.missing_dataset(stem, folder, "a description downloads nothing")
    if not path.exists():
        raise DataError(
            f"Unknown dataset '{name}'.{suggest(name, sorted(datasets | set(tasks)))} Give the path of an "
            ".npz or .hdf5 file, or the name of a dataset or task (`genpolicy list tasks` prints them)."
        )
    return path, task
