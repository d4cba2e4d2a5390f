"""Every run, with the command that repeats it."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from genpolicy.bench.suite_report.analysis import levels_of
from genpolicy.bench.suite_report.loading import Study
from genpolicy.bench.suite_report.tables import write_csv


def runs_csv(study: Study) -> str:
    """Every planned job with its result, its overrides and the command that repeats it."""
    factors = list(dict.fromkeys(factor for job in study.planned for factor, _ in levels_of(job)))
    titles = [
        "key",
        "task",
        *factors,
        "seed",
        "state",
        "metric",
        "score",
        "updates",
        "seconds",
        "together",
        "code",
        "dataset_sha256",
    ]
    return write_csv([*titles, "command"], _run_lines(study, factors))


def _run_lines(study: Study, factors: Iterable[str]) -> Iterator[list[Any]]:
    ended = {run["key"]: run for run in (*study.failed, *study.runs)}
    for job in study.planned:
        run, levels = ended.get(job["key"], {}), dict(levels_of(job))
        code = run.get("code") or {}
        yield [
            job["key"],
            job["task"],
            *(levels.get(factor, "") for factor in factors),
            job["seed"],
            run.get("state", "missing"),
            *(run.get(name, "") for name in ("metric", "score", "updates", "seconds", "together")),
            " ".join(str(code[name]) for name in ("version", "digest") if code.get(name)),
            run.get("dataset_sha256") or "",
            command_of(run) if study.suite.kind == "train" else "",
        ]


def command_of(run: Mapping[str, Any]) -> str:
    """The command line that repeats one run."""
    overrides = run.get("overrides")
    return f"genpolicy train {shlex.join(overrides)}" if overrides else ""
