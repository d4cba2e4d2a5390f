"""Checkpoints as safetensors plus JSON: complete or absent, verified when read, never executed.

A checkpoint called ``step_00001000`` is two files. ``step_00001000.safetensors`` holds the tensors and is
written first; ``step_00001000.json`` holds the state together with size and SHA-256 of the tensors. Its
existence means that the checkpoint is complete. ``best.json`` names the one with the best evaluation score.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from genpolicy.errors import CheckpointError
from genpolicy.training.storage import (
    json_safe,
    remove,
    remove_temporaries,
    storage_error,
    to_json,
    write_atomic,
)

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout; a reader refuses newer ones."""

BEST = "best.json"
"""File that names the best checkpoint."""
DAMAGED = "damaged"
"""Folder of checkpoints that could not be read."""
_NAME = re.compile(r"step_(\d+)\.json")


def step_name(step: int) -> str:
    """Return the name of the checkpoint of a step, as in ``step_00001000``."""
    return f"step_{step:08d}"


def save(directory: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint; a kill at any moment leaves it complete or absent, and earlier ones untouched.

    Args:
        directory: where to, made if missing.
        name: see `step_name`.
        tensors: any shapes and dtypes that safetensors knows, on any device; views are allowed.
        state: what JSON can hold; NaN and infinities come back as strings that `float` reads.

    Returns:
        The path without suffix, as `load` takes it.

    Raises:
        StorageError: if the disk refuses; temporary files are removed.
    """
    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
    }
    data = safetensors.save(copies)
    document = {
        "format": FORMAT,
        "tensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "state": json_safe(state),
    }
    text = to_json({**document, "sha256": _document_hash(document)}, indent=2)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(directory, error) from error
    write_atomic(directory / f"{name}.safetensors", data)
    write_atomic(directory / f"{name}.json", text)
    return directory / name


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a checkpoint.

    Args:
        path: one of its two files, or the path without suffix.

    Returns:
        The tensors, on the CPU, and the state.

    Raises:
        CheckpointError: if it is missing, incomplete or damaged; names the file and what to do.
    """
    base = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    json_file, tensor_file = base.with_name(base.name + ".json"), base.with_name(base.name + ".safetensors")
    if not json_file.exists():
        if tensor_file.exists():
            raise CheckpointError(
                f"The checkpoint {tensor_file} is incomplete: {json_file.name} is missing, since writing was "
                f"interrupted. Use another one in {base.parent}; resume=RUN_DIR takes the newest intact one."
            )
        raise CheckpointError(f"There is no checkpoint {json_file}. In {base.parent}: {_list(base.parent)}.")

    try:
        document = json.loads(_read(json_file))
        written_hash = document.pop("sha256")
        version, expected, state = document["format"], document["tensors"], document["state"]
        size, digest = expected["bytes"], expected["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(json_file, f"it is not a checkpoint's JSON ({error})") from error
    if version != FORMAT:
        raise CheckpointError(
            f"The checkpoint {json_file} has format {version!r}; this genpolicy reads format {FORMAT}. "
            "Read it with the genpolicy version that its provenance.json names."
        )
    if written_hash != _document_hash(document):
        raise _damaged(json_file, "its content does not fit its SHA-256")

    if not tensor_file.exists():
        raise _damaged(tensor_file, "the file is missing")
    data = _read(tensor_file)
    if len(data) != size:
        raise _damaged(tensor_file, f"it has {len(data)} bytes instead of {size}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(tensor_file, f"its content does not fit the SHA-256 in {json_file.name}")
    try:
        return safetensors.load(data), state
    except SafetensorError as error:
        raise _damaged(tensor_file, f"it is not a safetensors file ({error})") from error


def section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name starts with ``prefix/``, without it (``section(tensors, "agent")``)."""
    start = f"{prefix}/"
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def names(directory: Path) -> list[str]:
    """Names of the complete checkpoints, oldest first; their content is not verified."""
    found = [
        (int(match[1]), match[0]) for file in directory.glob("step_*.json") if (match := _NAME.fullmatch(file.name))
    ]
    return [file.removesuffix(".json") for _, file in sorted(found)]


def latest(directory: Path) -> Path | None:
    """Return the newest checkpoint that verifies, warning of newer ones that do not; None if there are none.

    Raises:
        CheckpointError: if there are checkpoints but every one is damaged.
    """
    problems = []
    for name in reversed(names(directory)):
        try:
            load(directory / name)
        except CheckpointError as error:
            logger.warning("Passing over a checkpoint. %s", error)
            problems.append(str(error))
        else:
            return directory / name
    if problems:
        raise CheckpointError(
            f"None of the {len(problems)} checkpoints in {directory} can be used. {problems[0]} "
            f"To train from the beginning, start a new run with another run_dir."
        )
    return None


def set_best(directory: Path, best: Mapping[str, Any] | None) -> None:
    """Point best.json at the checkpoint with the best score, or remove it if that checkpoint is not there.

    Args:
        directory: the checkpoints.
        best: name, step, metric and value; None if nothing was evaluated yet.
    """
    if best is not None and (directory / f"{best['name']}.json").exists():
        write_atomic(directory / BEST, to_json(dict(best), indent=2))
    else:
        remove(directory / BEST)


def best(directory: Path) -> dict[str, Any] | None:
    """Return name, step, metric and value of the best checkpoint, or None if there is none.

    Raises:
        CheckpointError: if best.json is damaged.
    """
    file = directory / BEST
    if not file.exists():
        return None
    try:
        record = json.loads(_read(file))
        return {key: record[key] for key in ("name", "step", "metric", "value")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}). Delete it; the newest checkpoint is still usable."
        ) from error


def prune(directory: Path, *, keep: int = 2) -> None:
    """Delete all checkpoints but the newest `keep` and the best one."""
    record = best(directory)
    for name in names(directory)[:-keep]:
        if record is None or name != record["name"]:
            # The JSON goes first: without it the rest is no checkpoint and is cleaned at the next start.
            remove(directory / f"{name}.json")
            remove(directory / f"{name}.safetensors")


def clean(directory: Path) -> None:
    """Remove what a killed process left: temporary files, and tensors whose JSON was never written."""
    if not directory.is_dir():
        return
    remove_temporaries(directory)
    for file in directory.glob("step_*.safetensors"):
        if not file.with_suffix(".json").exists():
            remove(file)


def set_aside_newer(directory: Path, name: str) -> None:
    """Move the checkpoints newer than `name` to the folder ``damaged``, so that none is loaded later."""
    everything = names(directory)
    for newer in everything[everything.index(name) + 1 :]:
        try:
            (directory / DAMAGED).mkdir(exist_ok=True)
            for file in (f"{newer}.json", f"{newer}.safetensors"):
                if (directory / file).exists():
                    os.replace(directory / file, directory / DAMAGED / file)
        except OSError as error:
            raise storage_error(directory / newer, error) from error


def _document_hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}. Check its permissions and the disk.") from error


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint file {file} is damaged: {reason}. Restore it from a copy or use another checkpoint; "
        "resume=RUN_DIR chooses the newest intact one by itself."
    )


def _list(directory: Path) -> str:
    return ", ".join(names(directory)) or "no checkpoints"
