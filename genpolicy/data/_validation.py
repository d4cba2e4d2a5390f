"""Checks of a dataset's arrays that report everything wrong at once, with row numbers."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from genpolicy.errors import DataError

CHUNK = 1 << 14
"""Rows that are looked at together, so that temporary arrays stay small beside the data."""


def check_arrays(
    values: Mapping[str, Any], *, name: str, action_tolerance: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Convert the five arrays of a dataset to float32, but for images of uint8 and terminals, and check them.

    Args:
        values: observations (R, *O), actions (R, A), rewards, masks and terminals (R,).
        name: what the message calls the dataset.
        action_tolerance: by how much actions may leave [-1, 1].

    Returns:
        The arrays, and the int64 indices (K,) of the rows that end an episode.

    Raises:
        DataError: one message with everything that is wrong.
    """
    problems: list[str] = []
    arrays = {key: _as_float32(key, value, problems) for key, value in values.items()}
    for key, array in arrays.items():
        expected = {"observations": "(R, *O)", "actions": "(R, A)"}.get(key, "(R,)")
        if array.ndim < 2 if key == "observations" else array.ndim != expected.count(" ") + 1:
            problems.append(f"{key} has shape {array.shape}; it must be {expected}")
    problems += length_problem({key: array.shape[0] for key, array in arrays.items() if array.ndim})
    checks = RowChecks(action_tolerance)
    if not problems:
        for start in range(0, len(arrays["terminals"]), CHUNK):
            checks.add({key: array[start : start + CHUNK] for key, array in arrays.items()})
        problems = checks.problems()
    raise_problems(f"Dataset '{name}' cannot be used", problems)
    return arrays, checks.ends()


class RowChecks:
    """Checks of rows that come piece by piece.

    ``masks`` and ``terminals`` must be 0 or 1, all else finite, ``actions`` also within the bounds; if there are
    ``terminals``, the last row must end an episode and no episode may be a single row.

    Args:
        action_tolerance: by how much actions may leave [-1, 1].
    """

    def __init__(self, action_tolerance: float):
        self._limit = 1.0 + action_tolerance
        self._count = 0
        self._not_finite: dict[str, list[np.ndarray]] = {}
        self._outside: list[np.ndarray] = []
        self._worst = 0.0
        self._not_binary: dict[str, list[np.ndarray]] = {}
        self._ends: list[np.ndarray] = []

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Check the next rows; every array has the same number of them."""
        for key, array in arrays.items():
            if key in ("masks", "terminals"):
                self._note(self._not_binary, key, (array != 0) & (array != 1))
            elif array.dtype.kind == "f":
                self._note(self._not_finite, key, ~np.isfinite(array))
        if "actions" in arrays:
            sizes = np.abs(arrays["actions"])
            outside = sizes > self._limit
            if outside.any():
                self._worst = max(self._worst, float(sizes[outside].max()))
                self._outside.append(np.flatnonzero(outside.any(axis=1)) + self._count)
        if "terminals" in arrays:
            self._ends.append(np.flatnonzero(arrays["terminals"]) + self._count)
        self._count += len(next(iter(arrays.values())))

    def problems(self) -> list[str]:
        """What to say of the rows added so far, taken as all rows; nothing if they are well."""
        found = [
            f"{key} has NaN or infinite values in {list_rows(np.concatenate(rows))}"
            for key, rows in self._not_finite.items()
        ]
        outside = np.concatenate([np.empty(0, np.int64), *self._outside])
        if len(outside):
            found.append(
                f"actions leave [-1, 1] (up to {self._worst:g}) in {list_rows(outside)}; rescale them to [-1, 1]"
            )
        found += [
            f"{key} must be 0 or 1, but is not in {list_rows(np.concatenate(rows))}"
            for key, rows in self._not_binary.items()
        ]
        return found if not self._ends else found + _episode_problems(self.ends(), self._count)

    def ends(self) -> np.ndarray:
        """The int64 indices (K,) of the rows that end an episode."""
        return np.concatenate([np.empty(0, np.int64), *self._ends])

    def _note(self, found: dict[str, list[np.ndarray]], key: str, wrong: np.ndarray) -> None:
        if wrong.any():
            rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1)) + self._count
            found.setdefault(key, []).append(rows)


def raise_problems(title: str, problems: list[str]) -> None:
    """Raise a `DataError` that lists `problems` under `title`, if there are any."""
    if problems:
        raise DataError("\n  - ".join([f"{title}:", *problems]))


def length_problem(lengths: Mapping[str, int]) -> list[str]:
    """What to say of arrays whose numbers of rows differ or are 0 (nothing if they are well)."""
    listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
    if len(set(lengths.values())) > 1:
        return [f"numbers of rows differ: {listed}"]
    return [f"there are no rows: {listed}"] if 0 in lengths.values() else []


def list_rows(rows: np.ndarray, shown: int = 5) -> str:
    """Row numbers for a message: the first few and how many more there are."""
    more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:shown]))}{more}"


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 (hexadecimal) of names, shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for key, array in arrays.items():
        digest.update(f"{key}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _episode_problems(ends: np.ndarray, rows: int) -> list[str]:
    if not len(ends):
        return ["there is no episode end: terminals must be true at the last row of each episode"]
    problems = []
    if ends[-1] != rows - 1:
        problems.append(f"the last row ({rows - 1}) does not end an episode: terminals must be true there")
    single = ends[np.diff(ends, prepend=-1) == 1]
    if len(single):
        problems.append(f"episodes of one row hold no transition: remove {list_rows(single)}")
    return problems


def _as_float32(key: str, value: Any, problems: list[str]) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        problems.append(f"{key} has dtype {array.dtype}; it must hold real numbers")
        return np.zeros(array.shape, np.float32)
    if key == "terminals" or (key == "observations" and array.dtype == np.uint8 and array.ndim > 2):
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
