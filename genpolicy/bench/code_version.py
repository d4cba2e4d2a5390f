"""Which code made a result: version, revision, and a digest of every source file that can change a number."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import genpolicy

PACKAGE = Path(genpolicy.__file__).parent
_BENCH = ("jobs.py", "latency.py", "training_jobs.py", "toy_jobs.py", "toy_runs.py", "toy_measures.py")
"""Of this folder only what runs inside a job: reports and tables change no result."""
_NEVER = ("cli.py", "listing.py", "progress.py")


@cache
def code_version() -> dict[str, Any]:
    """Version, digest (12 hex digits) and git revision of the code, as it was when first asked in this process.

    The digest is over the whole text of the files, comments and docstrings included.
    """
    from genpolicy.training.provenance import (
        git_revision,
    )  # brings torch, which `genpolicy bench status` can do without

    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in _NEVER or (name.startswith("bench/") and name.removeprefix("bench/") not in _BENCH):
            continue
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    revision = git_revision(Path(genpolicy.__file__))
    return {"version": genpolicy.__version__, "digest": digest.hexdigest()[:12], "git": revision}
