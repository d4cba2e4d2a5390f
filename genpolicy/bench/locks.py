"""Locks that the system frees when the process that holds them ends, however it ends."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genpolicy.training.storage import storage_error

_PATIENCE = 0.3  # seconds; `is_locked` holds a lock for a moment when it looks whether somebody else does


@contextmanager
def lock(file: Path) -> Iterator[bool]:
    """Try to take a job; says whether it was free. The system frees it when the process ends, however it ends.

    Raises:
        StorageError: if the disk refuses the lock file.
    """
    descriptor, deadline = -1, time.monotonic() + _PATIENCE
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(file, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(file, descriptor):
                break
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise storage_error(file, error) from error
            if time.monotonic() > deadline:
                os.close(descriptor)
                yield False
                return
            time.sleep(_PATIENCE / 10)
        os.close(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.uname().nodename} {os.getpid()}\n".encode())
        yield True
    finally:
        file.unlink(missing_ok=True)  # before it is free, so that nobody takes a file that is about to go
        os.close(descriptor)


def is_locked(file: Path) -> bool:
    """Whether somebody holds a lock."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _same_file(file: Path, descriptor: int) -> bool:
    try:
        return file.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:  # whoever held it before took the file away
        return False
