"""Checks of a dataset's arrays that report everything wrong at once, with row numbers."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from genpolicy.errors import DataError


def check_arrays(
    values: Mapping[str, Any], *, name: str, action_tolerance: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Convert the five arrays of a dataset to float32 and check them.

    Args:
        values: observations (R, *O), actions (R, A), rewards, masks and terminals (R,).
        name: what the message calls the dataset.
        action_tolerance: by how much actions may leave [-1, 1].

    Returns:
        The float32 arrays, and the int64 indices (K,) of the rows that end an episode.

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
    ends = np.empty(0, np.int64)
    if not problems:
        for key in ("observations", "actions", "rewards"):
            problems += finite_problem(key, arrays[key])
        outside = np.abs(arrays["actions"]) > 1.0 + action_tolerance
        if outside.any():
            worst = np.abs(arrays["actions"][outside]).max()
            rows = list_rows(np.flatnonzero(outside.any(axis=1)))
            problems.append(f"actions leave [-1, 1] (up to {worst:g}) in {rows}; rescale them to [-1, 1]")
        for key in ("masks", "terminals"):
            wrong = np.flatnonzero((arrays[key] != 0) & (arrays[key] != 1))
            if len(wrong):
                problems.append(f"{key} must be 0 or 1, but is not in {list_rows(wrong)}")
        ends = np.flatnonzero(arrays["terminals"])
        problems += _episode_problems(ends, len(arrays["terminals"]))
    raise_problems(f"Dataset '{name}' cannot be used", problems)
    return arrays, ends


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


def finite_problem(key: str, array: np.ndarray) -> list[str]:
    """What to say of an array (R, ...) with a NaN or an infinity (nothing if it is finite)."""
    finite = np.isfinite(array)
    if finite.all():
        return []
    rows = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
    return [f"{key} has NaN or infinite values in {list_rows(rows)}"]


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
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
