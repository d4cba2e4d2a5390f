"""Writing files so that a kill or a full disk never leaves a damaged one behind."""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genpolicy.errors import StorageError

TEMPORARY = ".tmp"
"""Suffix of files that are still being written; a leftover belongs to a killed process."""

_CHUNK = 8 << 20
_FREE = "free some space and go on with resume=RUN_DIR; finished checkpoints are intact."
_FIXES = {
    errno.ENOSPC: f"The disk is full: {_FREE}",
    errno.EDQUOT: f"Your quota is used up: {_FREE}",
    errno.EACCES: "Change the permissions or choose another run_dir.",
    errno.EPERM: "Change the permissions or choose another run_dir.",
    errno.EROFS: "The file system is read-only: choose another run_dir.",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """Turn the operating system's `error` about `path` into one that says what to do."""
    fix = _FIXES.get(error.errno or 0, "Check the disk, or choose another run_dir.")
    result = StorageError(f"Cannot write {path}: {error.strerror or error}. {fix}")
    result.errno = error.errno
    return result


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` to an open file, however often the system takes only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_CHUNK]) :]


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: afterwards it holds the old or the new content, never a mixture.

    The data go to a temporary file in the same directory, which is flushed to the disk and then renamed.

    Raises:
        StorageError: if the disk refuses; the temporary file is removed and the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries, so that renames in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Delete the files that a killed process left half-written in `directory`."""
    for leftover in directory.glob(f".*{TEMPORARY}"):
        remove(leftover)


def remove(file: Path) -> None:
    """Delete a file if it is there.

    Raises:
        StorageError: if the system refuses.
    """
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(file, error) from error


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """Encode as valid JSON; NaN and infinities become the strings "nan", "inf" and "-inf"."""
    return json.dumps(json_safe(value), indent=indent, allow_nan=False).encode()


def json_safe(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by strings that `float` reads."""
    if isinstance(value, Mapping):
        return {key: json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
