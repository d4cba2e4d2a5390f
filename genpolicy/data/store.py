"""Folders of arrays that are read row by row, for datasets that are larger than memory.

A folder holds one npy file for each array and, written last, ``manifest.json``: shapes, dtypes, sizes, SHA-256, and
what the arrays were made from. It is written under a hidden temporary name and then renamed, so that a folder of its
final name is complete. Reading and writing take pieces of rows; neither needs memory for a whole array.
"""

import contextlib
import errno
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from genpolicy.data.npz import read_header
from genpolicy.errors import DataError, StorageError

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
_BLOCK = 1 << 22


def write(
    folder: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    pieces: Iterable[Mapping[str, np.ndarray]],
    facts: Mapping[str, Any],
) -> None:
    """Write arrays into a new folder; it appears when it is complete, and after an error nothing is left.

    Args:
        folder: where; if another process is faster its folder is kept.
        shapes: shape and dtype of each array.
        pieces: the next rows of some or all arrays, until each is complete.
        facts: what else the manifest shall hold.

    Raises:
        DataError: if an array does not end at its shape, and whatever `pieces` raises.
        StorageError: if the disk refuses.
    """
    wanted = sum(_size(shape, dtype) for shape, dtype in shapes.values())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < wanted:
            raise OSError(errno.ENOSPC, f"{wanted / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            part = Path(temporary, "part")
            part.mkdir()
            arrays = _write_arrays(part, shapes, pieces)
            (part / MANIFEST).write_text(json.dumps({"format": FORMAT, **facts, "arrays": arrays}, indent=1) + "\n")
            if not folder.exists():
                part.rename(folder)
    except OSError as error:
        if isinstance(error, DataError | StorageError):
            raise
        raise StorageError(f"Cannot write {folder}: {error}. Free space there, or choose another directory.") from error


def _write_arrays(
    folder: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    pieces: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, dict[str, Any]]:
    """Write the files; what the manifest says of each."""
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for key, (shape, dtype) in shapes.items():
            files[key] = stack.enter_context((folder / f"{key}.npy").open("wb"))
            description = np.lib.format.dtype_to_descr(dtype)
            np.lib.format.write_array_header_1_0(
                files[key], {"descr": description, "fortran_order": False, "shape": shape}
            )
        begins = {key: file.tell() for key, file in files.items()}
        digests = {key: hashlib.sha256() for key in files}
        for piece in pieces:
            for key, rows in piece.items():
                content = np.ascontiguousarray(rows, shapes[key][1])
                files[key].write(content.data)
                digests[key].update(content.data)
        found = {}
        for key, (shape, dtype) in shapes.items():
            if files[key].tell() - begins[key] != _size(shape, dtype):
                raise DataError(f"{folder}: the rows of {key} are not as many as were announced ({shape[0]}).")
            found[key] = {
                "shape": list(shape),
                "dtype": dtype.str,
                "bytes": files[key].tell(),
                "sha256": digests[key].hexdigest(),
            }
        return found


class Store:
    """An open folder.

    Args:
        folder: a folder that `write` wrote.

    Raises:
        DataError: if it is not one, or a file of it is missing, cut off or not as the manifest says.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / MANIFEST).read_text())
            if self.manifest["format"] != FORMAT:
                raise ValueError(f"its format is {self.manifest['format']}, known is {FORMAT}")
            self._offsets = {key: self._check(key, facts) for key, facts in self.manifest["arrays"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder} is not a complete folder of arrays: {error}. Delete it; it is made again from the files "
                "that it was made from."
            ) from error

    @property
    def checksum(self) -> str:
        """sha256 (hexadecimal) of the arrays' names, shapes and checksums."""
        parts = [f"{key} {facts['shape']} {facts['sha256']}" for key, facts in sorted(self.manifest["arrays"].items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def rows(self, key: str) -> int:
        """The length of an array."""
        return self.manifest["arrays"][key]["shape"][0]

    def load(self, key: str) -> np.ndarray:
        """A whole array, in memory."""
        return np.load(self.folder / f"{key}.npy", allow_pickle=False)

    def chunks(self, keys: Iterable[str], rows: int) -> Iterator[dict[str, np.ndarray]]:
        """The rows of some arrays of equal length, in pieces of at most `rows`, each in memory of its own."""
        with contextlib.ExitStack() as stack:
            files = {key: stack.enter_context((self.folder / f"{key}.npy").open("rb")) for key in keys}
            headers = {key: read_header(file) for key, file in files.items()}
            count = next(iter(headers.values())).shape[0]
            for start in range(0, count, rows):
                size = min(rows, count - start)
                yield {
                    key: np.fromfile(file, headers[key].dtype, size * int(np.prod(headers[key].shape[1:]))).reshape(
                        size, *headers[key].shape[1:]
                    )
                    for key, file in files.items()
                }

    def verify(self) -> None:
        """Read all files and compare their checksums with the manifest's.

        Raises:
            DataError: naming the first file whose content is not what was written.
        """
        for key, facts in self.manifest["arrays"].items():
            digest = hashlib.sha256()
            with (self.folder / f"{key}.npy").open("rb") as file:
                file.seek(self._offsets[key])
                while block := file.read(_BLOCK):
                    digest.update(block)
            if digest.hexdigest() != facts["sha256"]:
                raise DataError(
                    f"{self.folder / f'{key}.npy'} has sha256 {digest.hexdigest()}, it was written with "
                    f"{facts['sha256']}. Delete {self.folder}; it is made again."
                )

    def _check(self, key: str, facts: Mapping[str, Any]) -> int:
        """Compare a file's size and header with the manifest; where its numbers begin."""
        path = self.folder / f"{key}.npy"
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise ValueError(f"{path.name} has {size} bytes instead of {facts['bytes']}")
        with path.open("rb") as file:
            header = read_header(file)
        if [*header.shape] != facts["shape"] or header.dtype.str != facts["dtype"]:
            raise ValueError(f"{path.name} holds {header.dtype} {header.shape}, not what {MANIFEST} says")
        return header.offset


class RowFile:
    """Observations and actions side by side in one file, of which only the rows that are asked for are read.

    What is read stays in the cache of the operating system, outside of the process, as long as there is memory to
    spare. Reading is cheaper here than touching a memory map, whose pages would moreover count as the process's own.

    Args:
        store: with an array of float32, (R, O + A).
        key: its name.
        observation_dim: O.
    """

    def __init__(self, store: Store, key: str, observation_dim: int):
        self._dim = observation_dim
        self._store, self._key = store, key
        self._file = (store.folder / f"{key}.npy").open("rb", buffering=0)
        header = read_header(self._file)
        (self._count, self._width), self._offset = header.shape, header.offset
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        array = np.frombuffer(self._map, header.dtype, offset=header.offset).reshape(header.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the tensor is read-only: nothing writes to it
            rows = torch.from_numpy(array)
        self.observations: Float32[Tensor, "R O"] = rows[:, :observation_dim]
        """A view of the file, through a memory map."""
        self.actions: Float32[Tensor, "R A"] = rows[:, observation_dim:]
        """A view of the file, through a memory map."""

    def read(self, rows: Int64[Tensor, " batch"], span: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read `span` rows from each of `rows` on; where the file begins or ends in between, as near as it goes.

        Returns:
            Observations and actions of all rows read, and what to add (batch,) to a row's number, of the file, to
            find it among them.
        """
        span = min(span, self._count)
        firsts = rows.clamp(0, self._count - span)
        stride = 4 * self._width
        number, size = self._file.fileno(), span * stride
        content = bytearray().join([os.pread(number, size, self._offset + stride * row) for row in firsts.tolist()])
        window = torch.frombuffer(content, dtype=torch.float32).view(-1, self._width)
        shift = torch.arange(0, span * len(firsts), span) - firsts
        return window[:, : self._dim], window[:, self._dim :], shift

    def pieces(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Observations and actions of all rows, in pieces of at most `rows`."""
        for piece in self._store.chunks((self._key,), rows):
            window = torch.from_numpy(piece[self._key])
            yield window[:, : self._dim], window[:, self._dim :]


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize
