"""The directory of one training run: configuration, provenance, logs, checkpoints and status.

    config.yaml  provenance.json  status.json  train.jsonl  eval.jsonl  checkpoints/  figures/

Small files are replaced as a whole, log lines are written one by one, and one process at a time may train.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from genpolicy.errors import ConfigError
from genpolicy.training import storage

logger = logging.getLogger(__name__)

RunState = Literal["running", "completed", "failed", "interrupted"]
"""What status.json says about a run."""
LogKind = Literal["train", "eval"]
"""Which log a line belongs to: train.jsonl or eval.jsonl."""

_KINDS: tuple[LogKind, ...] = ("train", "eval")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class RunDirectory:
    """Paths, logs, status and lock of one run; made by `create` or `open`.

    Attributes:
        path: the directory.
        checkpoints: where its checkpoints lie (see `genpolicy.training.checkpoint`).
        figures: where its figures lie.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self._logs: dict[LogKind, int] = {}

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether `path` holds a run; config.yaml is written last and marks it."""
        return (Path(path) / "config.yaml").is_file()

    @classmethod
    def create(cls, path: Path, config_yaml: str, provenance: Mapping[str, Any]) -> "RunDirectory":
        """Make the directory of a new run.

        Args:
            path: a directory that holds no run yet; made if missing.
            config_yaml: the resolved configuration.
            provenance: see `genpolicy.training.provenance.collect`.

        Raises:
            ConfigError: if there is a run already; nothing of it is touched.
            StorageError: if the disk refuses.
        """
        run = cls(path)
        try:
            for directory in (run.path, run.checkpoints, run.figures):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage.storage_error(run.path, error) from error
        with run.lock():
            if cls.exists(path):
                raise ConfigError(
                    f"{path} already holds a run. Go on with it by resume={path}, or choose another run_dir."
                )
            storage.write_atomic(run.path / "provenance.json", storage.to_json(provenance, indent=2))
            run.set_status("running", 0)
            storage.write_atomic(run.path / "config.yaml", config_yaml.encode())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the directory of an existing run, to resume or to evaluate it; writes nothing.

        Raises:
            ConfigError: if `path` is not the directory of a run; the message names runs nearby.
        """
        path = Path(path)
        if cls.exists(path):
            return cls(path)
        if not path.exists():
            problem = f"{path} does not exist."
        elif not path.is_dir():
            problem = f"{path} is a file."
        else:
            problem = f"{path} is not the directory of a run: it has no config.yaml."
        around = [path.parent, *(sorted(path.iterdir()) if path.is_dir() else [])]
        near = [str(candidate) for candidate in around if cls.exists(candidate)]
        hint = f"Did you mean {' or '.join(near[:3])}?" if near else "Give the run_dir of an earlier `genpolicy train`."
        raise ConfigError(f"{problem} {hint}")

    @property
    def config_yaml(self) -> str:
        """The configuration that the run was made with."""
        return (self.path / "config.yaml").read_text()

    def set_status(self, state: RunState, step: int, error: str | None = None) -> None:
        """Replace status.json.

        Args:
            state: what the run is doing.
            step: updates done.
            error: why it failed; shortened to one line.

        Raises:
            StorageError: if the disk refuses.
        """
        status: dict[str, Any] = {
            "state": state,
            "step": step,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
        }
        if error is not None:
            status["error"] = " ".join(error.split())
        storage.write_atomic(self.path / "status.json", storage.to_json(status, indent=2))

    def status(self) -> dict[str, Any]:
        """Read status.json: state, step, updated, pid and perhaps error.

        Raises:
            ConfigError: if it is missing or damaged.
        """
        file = self.path / "status.json"
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read ({error}). resume={self.path} writes it anew.") from error

    def append(self, kind: LogKind, record: Mapping[str, Any]) -> None:
        """Append one line to train.jsonl or eval.jsonl, visible to readers at once.

        Raises:
            StorageError: if the disk refuses.
        """
        file = self.log_file(kind)
        try:
            if kind not in self._logs:
                self._logs[kind] = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            storage.write_all(self._logs[kind], storage.to_json(record) + b"\n")
        except OSError as error:
            raise storage.storage_error(file, error) from error

    def log_file(self, kind: LogKind) -> Path:
        """Path of train.jsonl or eval.jsonl."""
        return self.path / f"{kind}.jsonl"

    def sync_logs(self) -> None:
        """Flush the logs to the disk, so that a checkpoint written next never survives them."""
        try:
            for descriptor in self._logs.values():
                os.fsync(descriptor)
        except OSError as error:
            raise storage.storage_error(self.path, error) from error

    def truncate_logs(self, step: int, eval_step: int | None = None) -> None:
        """Drop what was logged after a checkpoint, and lines that a kill cut short.

        Args:
            step: the checkpoint's step; lines of train.jsonl beyond it go.
            eval_step: the same for eval.jsonl; smaller than `step` if the evaluation at `step` is still due.

        Raises:
            StorageError: if the disk refuses; the logs are as before.
        """
        self.close()
        for kind in _KINDS:
            last = step if kind == "train" or eval_step is None else eval_step
            file = self.log_file(kind)
            if not file.exists():
                continue
            content = file.read_bytes()
            kept = b"".join(line + b"\n" for line in content.splitlines() if _logged_step(line) <= last)
            if kept != content:
                storage.write_atomic(file, kept)

    def close(self) -> None:
        """Close the logs; a later `append` opens them again."""
        while self._logs:
            os.close(self._logs.popitem()[1])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to train in this directory; the system releases it when the process ends.

        Raises:
            ConfigError: if another process holds it.
            StorageError: if the disk refuses the lock file.
        """
        file = self.path / ".lock"
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage.storage_error(file, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 32).decode(errors="replace") or "unknown"
                raise ConfigError(
                    f"Another process (pid {owner}) is training in {self.path}. "
                    "Wait for it, stop it, or choose another run_dir."
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise storage.storage_error(file, error) from error
                logger.warning("%s is on a file system without locks: never train in it twice at once.", self.path)
            with suppress(OSError):  # the pid only serves the message above
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            yield
        finally:
            os.close(descriptor)


def _logged_step(line: bytes) -> float:
    """The step of a log line; infinity if the line was cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
