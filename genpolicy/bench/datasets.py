"""The data of a suite's jobs: where they are, their checksum, and how to get what is missing."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genpolicy.bench.suite import Suite, SuiteTask
from genpolicy.config import RunConfig, uses_dataset
from genpolicy.data.availability import data_path
from genpolicy.data.tasks import Task, get_task
from genpolicy.errors import DataError, GenpolicyError
from genpolicy.training.storage import to_json, write_atomic

GENERATED = "{}-episodes"
"""Folder of generated data of so many episodes."""


@dataclass(frozen=True)
class Source:
    """The data that jobs of a task learn from."""

    dataset: str | None
    """Its name; None for a job that needs no data."""
    directory: Path | None = None
    """What `data.dir` is to be; None for the source's own directory."""
    sha256: str | None = None
    bytes: int | None = None
    generated: int | None = None
    """Episodes, if the data are generated and not the official ones."""
    missing: str | None = None
    """How to get the data, if they are not here."""

    def facts(self) -> dict[str, Any]:
        """For JSON; without the place."""
        return {key: value for key, value in asdict(self).items() if key not in ("directory", "missing")}


class Locator:
    """Finds the data of jobs, each once.

    Args:
        data: directory of official datasets, and of generated ones in folders of their own; by default each source's
            own directory, and `generated`.
        generated: where generated data are if `data` is not given.
    """

    def __init__(self, data: Path | None, generated: Path):
        self.data = None if data is None else Path(data).expanduser().absolute()
        self.generated = generated.absolute() if self.data is None else self.data
        self._found: dict[Any, Source] = {}

    def find(self, config: RunConfig, task: SuiteTask) -> Source:
        """The data of a job.

        Args:
            config: its configuration.
            task: its task; with `generate`, only generated data of so many episodes are taken.
        """
        if config.task is None or not uses_dataset(config):
            return Source(None)
        key = (config.task, config.data.path, config.data.dir, config.data.backend, task.generate)
        if key not in self._found:
            self._found[key] = self._find(config, task)
        return self._found[key]

    def folder(self, episodes: int) -> Path:
        """Where generated data of so many episodes are."""
        return self.generated / GENERATED.format(episodes)

    def _find(self, config: RunConfig, plan: SuiteTask) -> Source:
        task = get_task(str(config.task))
        given = None if config.data.dir is None else Path(config.data.dir).expanduser().absolute()
        if plan.generate is not None and config.data.path is None:
            given = self.folder(plan.generate)
        elif given is None and self.data is not None:
            in_default = data_path(task).exists() and not data_path(task, self.data).exists()
            given = None if in_default else self.data
        if config.data.backend == "d4rl":
            return Source(task.dataset, given)
        path = Path(config.data.path).expanduser().absolute() if config.data.path else None
        if path is None and task.source in ("ogbench", "d4rl"):
            path = data_path(task, given)
        generated = plan.generate if config.data.path is None else None
        if path is not None and path.is_file():
            return Source(task.dataset, given, checksum(path), path.stat().st_size, generated)
        if path is not None and not path.exists():
            return Source(task.dataset, given, generated=generated, missing=_how_to_get(task, plan, path))
        return _loaded(task, config, given, generated)


def generate_missing(
    suite: Suite, locator: Locator, *, workers: int, progress: Callable[[int, int, str], None] | None = None
) -> list[Path]:
    """Generate the data of all tasks whose suite asks for generated data, unless they are there.

    Args:
        suite: whose tasks.
        locator: says where.
        workers: simulator processes.
        progress: called with (done, total, description).

    Returns:
        The files that were made.

    Raises:
        ConfigError: for a dataset that cannot be generated.
    """
    from genpolicy.data.generation import generate

    made = []
    for task in (task for part in suite.parts if part.kind == "train" for task in part.tasks):
        if task.generate is None:
            continue
        name, folder = get_task(task.name).dataset, locator.folder(task.generate)
        if (folder / f"{name}.npz").exists():
            continue

        def tell(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(done, total, f"episodes of {name}")

        made.append(generate(name, directory=folder, episodes=task.generate, workers=workers, progress=tell))
    return made


def checksum(path: Path) -> str:
    """SHA-256 of a file, remembered by its path, size and time of change."""
    stat = path.stat()
    key = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
    cache = _cache_file()
    known = _read_cache(cache)
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        # The cache only saves time: a directory that cannot be written to costs a second look at the file.
        with contextlib.suppress(GenpolicyError, OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cache, to_json({**_read_cache(cache), key: known[key]}, indent=1))
    return known[key]


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "genpolicy" / "checksums.json"


def _read_cache(cache: Path) -> dict[str, str]:
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _loaded(task: Task, config: RunConfig, directory: Path | None, generated: int | None) -> Source:
    """Data that are not one file: read them."""
    from genpolicy.data import load_dataset

    try:
        train_set, _ = load_dataset(task, directory, path=config.data.path, download=False)
    except DataError as error:
        return Source(task.dataset, directory, generated=generated, missing=str(error).splitlines()[0])
    return Source(task.dataset, directory, train_set.checksum, generated=generated)


def _how_to_get(task: Task, plan: SuiteTask, path: Path) -> str:
    from genpolicy.data.generation import generatable

    if plan.generate is not None:
        return f"{path} is missing; --generate makes it ({plan.generate} episodes)"
    ways = [f"download {task.urls[0]} there"] if task.urls else []
    if task.dataset in generatable():
        ways.append(f"make data of the same kind: genpolicy data generate {task.dataset} --out {path.parent}")
    return f"{path} is missing; {', or '.join(ways) or 'copy it there'}"
