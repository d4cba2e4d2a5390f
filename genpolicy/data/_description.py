"""What is in a dataset's file, as plain numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data import ogbench
from genpolicy.data.tasks import Task, list_tasks
from genpolicy.errors import DataError, suggest


def describe(path_or_id: str | Path, directory: str | Path | None = None) -> dict[str, Any]:
    """Describe a dataset in numbers, strings and lists; nothing is downloaded.

    Args:
        path_or_id: the path of an ``.npz`` file, the name of a dataset, or the name of a task.
        directory: where named datasets are; default ``~/.ogbench/data``.

    Returns:
        What `TransitionDataset.summary` gives (``rewards`` only for a task; actions as stored), and

        - ``path``, ``bytes``: of the file
        - ``task``: the task's name, or None
        - ``arrays``: shape and dtype of each array in the file
        - ``validation``: the path of the validation split, or None
        - ``source_note``: the path of a file beside it that says where it comes from, or None

    Raises:
        DataError: if there is no such file or dataset, or the file is damaged or does not fit the task.
    """
    path, task = _locate(path_or_id, ogbench.resolve_directory(directory))
    required = ogbench.BASIC_KEYS + (ogbench.reward_keys(task) if task else ())
    arrays = ogbench.read_arrays(path, required, others=True)
    validation = path.with_name(f"{path.stem}-val.npz")
    notes = (path.with_name(f"{path.stem.removesuffix('-val')}.json"), path.with_name("README.md"))
    info: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "task": task.name if task else None,
        "arrays": {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in arrays.items()},
        "validation": str(validation) if validation.exists() else None,
        "source_note": next((str(note) for note in notes if note.exists()), None),
    }
    if task:
        with ogbench.numpy_generator_kept(), ogbench.simulator(task) as env:
            return info | ogbench.label(path, arrays, task, env, clip_actions=False).summary()
    zeros = np.zeros(len(arrays["terminals"]), np.float32)
    info |= ogbench.make_dataset(path, arrays, zeros, zeros, clip_actions=False).summary()
    del info["rewards"]
    return info


def _locate(path_or_id: str | Path, folder: Path) -> tuple[Path, Task | None]:
    """The file that a path, a dataset's name or a task's name stands for, and the task if it is one."""
    name = str(path_or_id)
    if name.endswith(".npz"):
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise DataError(f"There is no file {path}. Give the path of an .npz file, or a dataset's or task's name.")
        return path, None
    tasks = {task.name: task for task in list_tasks()}
    datasets = {task.dataset for task in tasks.values()}
    task = tasks.get(name)
    stem = task.dataset if task else name
    path = folder / f"{stem}.npz"
    if not path.exists() and stem in datasets:
        raise ogbench.missing_dataset(stem, folder, "a description downloads nothing")
    if not path.exists():
        raise DataError(
            f"Unknown dataset '{name}'.{suggest(name, sorted(datasets | set(tasks)))} Give the path of an "
            ".npz file, or the name of a dataset or task (`genpolicy list tasks` prints them)."
        )
    return path, task
