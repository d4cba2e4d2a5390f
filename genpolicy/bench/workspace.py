"""The results folder of a suite: plan, results, failures, run directories and locks.

    suite.yaml  plan.jsonl  plan.json  data.json  results/  failed/  runs/  locks/  code/  report/

Every file appears whole or not at all. What is finished is known from the names in ``results`` alone: a job has a
file there when it completed or diverged; one that failed or diverged also has one in ``failed``.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpolicy.bench.code_version import code_version
from genpolicy.bench.locks import is_locked, lock
from genpolicy.errors import ConfigError
from genpolicy.recipes import Tree
from genpolicy.training.storage import remove, storage_error, to_json, write_atomic

if TYPE_CHECKING:
    from genpolicy.bench.jobs import Job
    from genpolicy.bench.suite import Suite

RUNNER = "runner"
"""The lock of whoever decides what is run."""
_KEY_AT = slice(9, 25)
"""Where a line of the plan has its key: ``{"key": "0123456789abcdef", ...``."""


@dataclass(frozen=True)
class Status:
    """How many jobs are where."""

    jobs: int
    completed: int
    diverged: int
    failed: int
    running: tuple[str, ...]
    """Keys of the jobs that somebody works on."""

    @property
    def waiting(self) -> int:
        """Jobs that nobody has begun, or that were interrupted."""
        return self.jobs - self.completed - self.diverged - self.failed - len(self.running)


class Workspace:
    """A results folder; made by `create` or `open`.

    Attributes:
        path: the folder.
        results: one JSON file for each finished job.
        failed: one JSON file for each job that failed or diverged.
        runs: the run directories.
    """

    def __init__(self, path: Path):
        self.path = Path(path).absolute()
        self.results, self.failed, self.runs = self.path / "results", self.path / "failed", self.path / "runs"
        self.locks, self.code = self.path / "locks", self.path / "code"

    @classmethod
    def create(cls, path: Path, suite: str) -> "Workspace":
        """Make the folder of a suite, or open it.

        Raises:
            ConfigError: if it is another suite's, or holds something else.
            StorageError: if the disk refuses.
        """
        workspace = cls(path)
        workspace.refuse_foreign(suite)
        for folder in (workspace.results, workspace.failed, workspace.runs, workspace.locks, workspace.code):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(folder, error) from error
        return workspace

    @classmethod
    def open(cls, path: Path) -> "Workspace":
        """Open a results folder.

        Raises:
            ConfigError: if it is none.
        """
        workspace = cls(path)
        if not (workspace.path / "plan.json").is_file():
            raise ConfigError(f"{path} is not a results folder of `genpolicy bench run`: it has no plan.json.")
        return workspace

    def refuse_foreign(self, suite: str) -> None:
        """Refuse the folder of another suite, and one that holds other things.

        Raises:
            ConfigError: naming the other suite.
        """
        if (self.path / "plan.json").is_file():
            theirs = self.settings["suite"]
            if theirs != suite:
                raise ConfigError(
                    f"{self.path} holds results of the suite '{theirs}', not of '{suite}'. Choose another --out."
                )
        elif self.path.is_dir() and not self.results.is_dir() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and no results folder. Choose another --out.")

    # What is to be run

    @property
    def settings(self) -> dict[str, Any]:
        """suite, jobs, code, data, generated, keep_runs and missing, as `write_plan` stored them."""
        return _read_json(self.path / "plan.json")

    @property
    def suite(self) -> "Suite":
        """The suite as it is run."""
        from genpolicy.bench.suite_reading import read_suite

        file = self.path / "suite.yaml"
        return _cached(file, lambda text: read_suite(self.settings["suite"], _from_yaml(text), str(file)))

    def write_plan(self, suite: "Suite", jobs: Sequence["Job"], settings: Mapping[str, Any]) -> None:
        """Write down what is to be run, plan.json last.

        Raises:
            StorageError: if the disk refuses.
        """
        lines = b"".join(json.dumps(job.row()).encode() + b"\n" for job in jobs)
        data = {job.task: job.cell.source.facts() for job in jobs if job.cell.source.dataset}
        write_atomic(self.path / "suite.yaml", _to_yaml(suite.declaration))
        write_atomic(self.path / "plan.jsonl", lines)
        write_atomic(self.path / "data.json", to_json(data, indent=1))
        keys = len({job.key for job in jobs})
        facts = {"suite": suite.name, "jobs": keys, "code": code_version(), **settings}
        write_atomic(self.path / "plan.json", to_json(facts, indent=1))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The plan: key, suite, kind, task, levels and seed of each job.

        Rows of different suites or levels that come to the same have the same key.
        """
        for line in self.plan_lines():
            yield json.loads(line)

    def row(self, key: str) -> dict[str, Any]:
        """The first line of the plan of a job.

        Raises:
            ConfigError: if there is none.
        """
        at = self._plan.find(f'{{"key": "{key}"'.encode())
        if at < 0:
            raise ConfigError(f"The plan of {self.path} has no job {key}.")
        return json.loads(self._plan[at:].split(b"\n", 1)[0])

    def plan_lines(self) -> list[bytes]:
        """The lines of the plan, for whoever reads only a part of each."""
        return self._plan.splitlines()

    def keys(self) -> list[str]:
        """The keys of the plan, each once, in the order in which they are to be run."""
        return list(dict.fromkeys(map(key_of, self.plan_lines())))

    def job(self, key: str) -> "Job":
        """Make a job from its line of the plan.

        Raises:
            ConfigError: if there is no such line, or suite, recipe, data or code are no longer what was planned.
        """
        from genpolicy.bench.expansion import job_of_row

        row, settings, now = self.row(key), self.settings, code_version()
        if settings["code"]["digest"] != now["digest"]:
            raise ConfigError(
                f"The plan was made by the code {settings['code']['digest']}, and this process runs {now['digest']}. "
                "The code was changed meanwhile: start `genpolicy bench run` again."
            )
        data = None if settings["data"] is None else Path(settings["data"])
        job = job_of_row(self.suite, row, data, Path(settings["generated"]))
        if job.key != key:
            what = f"now it is {job.key}"
            if job.cell.source.missing:
                what = job.cell.source.missing
            raise ConfigError(
                f"Job {key} is no longer what was planned ({what}): its recipe, its data or the suite were changed. "
                "Start `genpolicy bench run` again."
            )
        return job

    @property
    def _plan(self) -> bytes:
        return _cached(self.path / "plan.jsonl", lambda text: text)

    def data(self) -> dict[str, Any]:
        """Facts of each task's data: dataset, sha256, bytes, and generated (episodes or None)."""
        return _read_json(self.path / "data.json")

    # What is done

    def has_result(self, key: str) -> bool:
        """Whether a job completed or diverged."""
        return self.result_file(key).is_file()

    def result_file(self, key: str) -> Path:
        """Where the result of a job lies."""
        return self.results / f"{key}.json"

    def finished(self) -> set[str]:
        """The keys that have a result, whether in the plan or not."""
        return names_in(self.results)

    def write_result(self, key: str, result: Mapping[str, Any]) -> None:
        """Store the result of a job; what is known of an earlier failure goes, unless it diverged.

        Raises:
            StorageError: if the disk refuses.
        """
        code = self.code / f"{result['code']['digest']}.json"
        if not code.exists():  # first: a result whose code is not listed would be mixed silently
            write_atomic(code, to_json(result["code"], indent=1))
        write_atomic(self.result_file(key), to_json(result, indent=1))
        if result["state"] != "diverged":
            remove(self.failed / f"{key}.json")

    def write_failure(self, key: str, error: str, *, state: str = "failed") -> None:
        """Store why a job failed, with the number of attempts.

        Raises:
            StorageError: if the disk refuses.
        """
        file = self.failed / f"{key}.json"
        attempts = 1 + (_read_json(file)["attempts"] if file.exists() else 0)
        record = {"key": key, "state": state, "error": error, "attempts": attempts, "time": time.time()}
        write_atomic(file, to_json(record, indent=1))

    def failures(self) -> dict[str, dict[str, Any]]:
        """By key: state, error and attempts of the planned jobs that failed or diverged."""
        planned = set(self.keys())
        return {key: _read_json(self.failed / f"{key}.json") for key in sorted(names_in(self.failed) & planned)}

    def read_results(self) -> list[dict[str, Any]]:
        """The results of the plan, in its order: one for each row that has one.

        Suite, task, levels and seed are the row's: what two suites or levels share was run once.
        """
        finished, found = self.finished(), []
        for row in self.rows():
            if row["key"] in finished:
                found.append(_read_json(self.result_file(row["key"])) | row)
        return found

    def code_versions(self) -> list[dict[str, Any]]:
        """Version, digest and revision of all code that made a result here."""
        return [_read_json(file) for file in sorted(self.code.glob("*.json"))]

    def drop_other_versions(self, digest: str) -> int:
        """Remove what other code than `digest` made, so that it is run again; returns how many results."""
        dropped = 0
        for key in self.finished():
            if _read_json(self.result_file(key))["code"]["digest"] != digest:
                for folder in (self.results, self.failed):
                    remove(folder / f"{key}.json")
                dropped += 1
        for file in self.code.glob("*.json"):
            if file.stem != digest:
                remove(file)
        return dropped

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Try to take a job, or `RUNNER`; see `genpolicy.bench.locks.lock`."""
        return lock(self._lock_file(name))

    def _lock_file(self, name: str) -> Path:
        return self.locks / f"{name}.lock"

    def status(self) -> Status:
        """How far the plan is; looks at names only, except of the jobs that are being worked on."""
        keys = set(self.keys())
        finished, failed = self.finished() & keys, names_in(self.failed) & keys
        running = tuple(
            sorted(key for key in names_in(self.locks, ".lock") & keys - finished if is_locked(self._lock_file(key)))
        )
        diverged = len(finished & failed)
        return Status(len(keys), len(finished) - diverged, diverged, len(failed - finished - set(running)), running)


def key_of(line: bytes) -> str:
    """The key in a line of the plan."""
    return line[_KEY_AT].decode()


def names_in(folder: Path, suffix: str = ".json") -> set[str]:
    """Names in a folder without their suffix; temporary files begin with a dot."""
    try:
        with os.scandir(folder) as entries:
            return {e.name.removesuffix(suffix) for e in entries if e.name.endswith(suffix) and e.name[0] != "."}
    except FileNotFoundError:
        return set()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}). Delete it, or start with another --out.") from error


def _cached(file: Path, read: Any) -> Any:
    """What a file holds, read again when it is replaced."""
    try:
        stat = file.stat()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error}). `genpolicy bench run` writes it anew.") from error
    if (known := _CACHE.get(file)) is None or known[0] != (stat.st_mtime_ns, stat.st_size, stat.st_ino):
        known = _CACHE[file] = ((stat.st_mtime_ns, stat.st_size, stat.st_ino), read(file.read_bytes()))
    return known[1]


_CACHE: dict[Path, tuple[Any, Any]] = {}


def _to_yaml(tree: Tree) -> bytes:
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).encode()


def _from_yaml(text: bytes) -> Tree:
    import yaml

    try:
        tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"suite.yaml of the results folder is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError("suite.yaml of the results folder is not a mapping.")
    return tree
