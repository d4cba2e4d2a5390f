"""What a run was made with: versions, revision, data, hardware and command line."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("genpolicy", "torch", "numpy", "gymnasium", "ogbench", "mujoco")


def version(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def collect(dataset_checksum: str | None) -> dict[str, Any]:
    """Gather what is needed to make a run again; for JSON.

    Args:
        dataset_checksum: SHA-256 of the training data, if there is one.

    Returns:
        versions, git (None outside a checkout), dataset_sha256, hardware, platform, command, directory,
        time (UTC) and threads.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "git": git_revision(Path(__file__)),
        "dataset_sha256": dataset_checksum,
        "hardware": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "platform": platform.platform(),
        "command": sys.argv,
        "directory": os.getcwd(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
    }


def git_revision(file: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout that tracks `file` and whether it has changes; None if none does.

    A virtual environment may lie inside somebody's repository; since that does not track it, its commit is
    not taken.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
