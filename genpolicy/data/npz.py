"""Arrays of npz files, read in pieces of rows, so that a file needs no more memory than what is kept of it."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from genpolicy.data._validation import CHUNK
from genpolicy.errors import DataError


class ArrayHeader(NamedTuple):
    """What precedes the numbers of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int
    """Bytes before the first number."""


def read_header(stream: IO[bytes]) -> ArrayHeader:
    """The header of an npy file; `stream` then stands at the first number.

    Raises:
        ValueError: if it is no npy file of numbers.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its format {version} is not one that holds numbers")
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: reading them would run code that the file holds")
    return ArrayHeader(shape, dtype, fortran_order, stream.tell())


class NpzFile:
    """An open npz file; nothing that it may hold is executed.

    Args:
        path: an existing file.

    Raises:
        DataError: here and when reading, if the file is truncated, damaged or no npz file.
    """

    headers: Mapping[str, ArrayHeader]
    """Of the arrays in the file."""

    def __init__(self, path: Path):
        self.path = path
        with _readable(path):
            with path.open("rb") as stream:
                if not zipfile.is_zipfile(stream):
                    raise zipfile.BadZipFile("it is not a complete npz archive")
            self._archive = zipfile.ZipFile(path)
            self.headers = {}
            for name in self._archive.namelist():
                if name.endswith(".npy"):
                    with self._archive.open(name) as stream:
                        self.headers[name.removesuffix(".npy")] = read_header(stream)

    def require(self, keys: Sequence[str]) -> None:
        """Refuse a file that lacks an array or whose array is not of numbers for each row."""
        missing = [key for key in keys if key not in self.headers]
        if missing:
            raise DataError(
                f"{self.path} has no {' and no '.join(map(repr, missing))}; it has {', '.join(self.headers)}. It must "
                "be in OGBench's layout: download, copy or generate it again."
            )
        problems = [
            f"{key} must hold numbers for each row, but has dtype {header.dtype} and shape {header.shape}"
            for key, header in self.headers.items()
            if key in keys and (header.dtype.kind not in "fiub" or not header.shape)
        ]
        if problems:
            raise DataError("\n  - ".join([f"{self.path} cannot be used:", *problems]))

    def chunks(self, keys: Sequence[str], rows: int = CHUNK) -> Iterator[dict[str, np.ndarray]]:
        """The rows of some arrays of equal length, in pieces of at most `rows`."""
        with contextlib.ExitStack() as stack, _readable(self.path):
            whole = {key: self.read(key) for key in keys if self.headers[key].fortran_order}
            streams = {key: stack.enter_context(self._archive.open(f"{key}.npy")) for key in keys if key not in whole}
            for stream in streams.values():
                read_header(stream)
            count = self.headers[keys[0]].shape[0]
            for start in range(0, count, rows):
                size = min(rows, count - start)
                piece = {key: array[start : start + size] for key, array in whole.items()}
                piece |= {key: _read_rows(stream, self.headers[key], size) for key, stream in streams.items()}
                if start + size == count:
                    for stream in streams.values():
                        stream.read(1)  # at its end the archive compares checksums
                yield piece

    def read(self, key: str) -> np.ndarray:
        """One whole array."""
        with _readable(self.path), self._archive.open(f"{key}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> "NpzFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        DataError: if the file is truncated, damaged or no npz file.
    """
    with NpzFile(path) as file:
        return {key: file.read(key) for key in file.headers}


def _read_rows(stream: IO[bytes], header: ArrayHeader, rows: int) -> np.ndarray:
    shape = (rows, *header.shape[1:])
    wanted = int(np.prod(shape)) * header.dtype.itemsize
    content = stream.read(wanted)
    if len(content) != wanted:
        raise EOFError("an array ends too early")
    return np.frombuffer(content, header.dtype).reshape(shape)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of reading as a `DataError` that says what to do."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. If it is truncated or damaged, "
            "delete it and download, copy or generate it again."
        ) from error
