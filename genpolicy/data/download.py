"""Download one file: whole or not at all under its name, resumed where an earlier attempt broke off."""

import contextlib
import errno
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError

from genpolicy.errors import DataError, StorageError

logger = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds without a byte; without it a silent network holds a run up for minutes
_BLOCK = 1 << 20
_REFUSED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
}


def download(url: str, target: Path, *, check: Callable[[Path], None] | None = None) -> None:
    """Fetch `url` into the file `target`, which appears only when it is complete.

    Bytes arrive in ``TARGET.part``. After a broken connection it stays, and the next call asks the server for the
    rest, provided that the server still has the same file (its ETag or date, kept in ``TARGET.part.tag``). Processes
    that want the same file wait for one another.

    Args:
        url: address of the file.
        target: where it goes; its directory is made if need be.
        check: called with the complete ``.part`` file; a `DataError` of it discards the file.

    Raises:
        DataError: if the file cannot be fetched, with the address, the target and what to do.
        StorageError: if the disk refuses.
    """
    created = [parent for parent in (target.parent, *target.parent.parents) if not parent.exists()]
    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.tag")
    logger.info("Downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target):
            if target.exists():  # another process was faster
                return
            _fetch(url, part, tag)
            if check is not None:
                try:
                    check(part)
                except DataError:
                    part.unlink()
                    raise
            part.replace(target)
            tag.unlink(missing_ok=True)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if not isinstance(error, HTTPError) and isinstance(error, OSError) and error.errno in _REFUSED:
            raise StorageError(
                f"Cannot store {url} as {target}: {error}. Free space or permit writing there."
            ) from error
        kept = f" {part.stat().st_size} bytes are kept; the next attempt goes on there." if _bytes_in(part) else ""
        raise DataError(
            f"{url} could not be downloaded to {target} ({error}).{kept} Connect to the network and repeat, or copy "
            "the file there from another machine."
        ) from error
    finally:
        if not _bytes_in(part):
            for leftover in (part, tag):
                with contextlib.suppress(OSError):
                    leftover.unlink()
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only if it is empty


def _fetch(url: str, part: Path, tag: Path) -> None:
    """Append to `part` until it is as long as the server says."""
    have = _bytes_in(part) if tag.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != 416:  # nothing lies beyond what we have, so that it is complete or of another file
            raise
        part.unlink()
        return _fetch(url, part, tag)
    with response:
        begins = have if response.status == 206 else 0
        rest = response.headers.get("Content-Length")
        same = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if same and not same.startswith("W/"):
            tag.write_text(same)
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if begins else "wb") as file:
            _copy(response, file)
        if rest is not None and _bytes_in(part) != begins + int(rest):
            raise ConnectionError(f"the connection broke after {_bytes_in(part)} of {begins + int(rest)} bytes")


def _copy(response: HTTPResponse, file: IO[bytes]) -> None:
    while block := response.read(_BLOCK):
        file.write(block)
    file.flush()
    os.fsync(file.fileno())


def _bytes_in(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Wait until no other process makes `target` (on systems with POSIX locks)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = target.with_name(f"{target.name}.lock")
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                continue  # whoever held it before took the file away
            try:
                yield
            finally:
                path.unlink()
            return
