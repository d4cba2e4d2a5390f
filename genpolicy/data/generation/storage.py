"""Files of a dataset in the making: finished episodes in a hidden folder, then three files put in place."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data.generation.rollout import SPLITS, Episode
from genpolicy.errors import DataError, StorageError


def dataset_files(directory: Path, name: str) -> tuple[Path, Path]:
    """The files of the training and of the validation split."""
    return directory / f"{name}.npz", directory / f"{name}-val.npz"


def refuse_existing(directory: Path, name: str) -> None:
    """Raise DataError if a file of the dataset is there already."""
    for path in dataset_files(directory, name):
        if path.exists():
            raise DataError(
                f"The file {path} exists already. Choose another directory, move the file away, or "
                "overwrite it (overwrite=True; --overwrite on the command line)."
            )


class PartialDataset:
    """The folder ``.<name>.partial`` with the settings and the finished episodes of an unfinished dataset.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: Path):
        self.path = path

    def file(self, episode: Episode) -> Path:
        """Where the arrays of `episode` are, once it is finished."""
        return self.path / f"{episode.split}-{episode.index:06d}.npz"

    def save(self, episode: Episode, arrays: dict[str, np.ndarray]) -> None:
        """Keep a finished episode."""
        with _replacing(self.file(episode)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def install(self, name: str, episodes: Sequence[Episode], provenance: dict[str, Any]) -> Path:
        """Write the dataset's three files, move them beside the folder, remove the folder.

        Args:
            name: dataset name.
            episodes: all episodes, in the order of their rows.
            provenance: content of ``<name>.json``; rows and checksums are added.

        Returns:
            The file of the training split.
        """
        directory = self.path.parent
        rows, checksums = {}, {}
        for split, target in zip(SPLITS, dataset_files(directory, name), strict=True):
            arrays = self._joined([episode for episode in episodes if episode.split == split])
            with _replacing(self.path / target.name) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            rows[split] = len(arrays["terminals"])
            with open(self.path / target.name, "rb") as file:
                checksums[target.name] = hashlib.file_digest(file, "sha256").hexdigest()
        content = json.dumps({**provenance, "rows": rows, "sha256": checksums}, indent=2)
        with _replacing(self.path / f"{name}.json") as file:
            file.write(content.encode() + b"\n")
        train, validation = dataset_files(directory, name)
        with _storage_errors(directory):
            for target in (directory / f"{name}.json", validation, train):
                os.replace(self.path / target.name, target)
            shutil.rmtree(self.path)
        return train

    def _joined(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """The arrays of `episodes`, one after the other; one key at a time, to spare memory."""
        with self._opened(episodes[0]) as first:
            keys = first.files
        joined = {}
        for key in keys:
            parts = []
            for episode in episodes:
                with self._opened(episode) as arrays:
                    parts.append(arrays[key])
            joined[key] = np.concatenate(parts)
        return joined

    @contextmanager
    def _opened(self, episode: Episode) -> Iterator[Any]:
        path = self.file(episode)
        try:
            with np.load(path) as arrays:
                yield arrays
        except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"The file {path} is damaged ({error}). Delete it and run again.") from error


@contextmanager
def partial_dataset(directory: Path, name: str, settings: dict[str, Any]) -> Iterator[PartialDataset]:
    """Open the partial dataset in `directory`, new or of an earlier run, for this process alone.

    Args:
        directory: where the finished dataset will be; made if missing.
        name: dataset name.
        settings: everything (JSON) that the content of an episode depends on.

    Raises:
        DataError: if the folder has other settings, or another process works on it.
        StorageError: if the folder cannot be made.
    """
    path = directory / f".{name}.partial"
    with _storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with _only_process(path):
        _check_settings(path, json.loads(json.dumps(settings)))
        yield PartialDataset(path)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Compare the settings with those stored in the folder, or store them if it is new."""
    file = path / "settings.json"
    if not file.exists():
        with _replacing(file) as out:
            out.write(json.dumps(settings, indent=2).encode())
        return
    found = json.loads(file.read_text())
    keys = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    if keys:
        changes = "; ".join(f"{key}: {found.get(key)} there, {settings.get(key)} now" for key in keys)
        raise DataError(
            f"The folder {path} holds episodes of an unfinished dataset with other settings ({changes}). "
            "Go on with those settings, or delete that folder to start anew."
        )


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Hold a lock on the folder; systems without ``fcntl`` (Windows) go without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"Another process is generating into {path}. Wait until it has finished, or end it first."
            ) from None
        yield


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Open a temporary file that takes the place of `path` when everything has been written."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _storage_errors(path):
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Turn a refused write into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error}. Free space there or choose another directory; finished "
            "episodes are kept, and the same call goes on from them."
        ) from error
