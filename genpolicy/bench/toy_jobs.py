"""The toy study as a suite: its runs as jobs, with the results of a benchmark."""

import dataclasses
import time
from typing import Any

import torch

from genpolicy.bench import toy, toy_runs
from genpolicy.bench.datasets import Source
from genpolicy.bench.jobs import Cell, Job
from genpolicy.bench.suite import Suite, SuiteTask
from genpolicy.bench.toy_measures import import_transport
from genpolicy.bench.toy_runs import CLONING, Q_GRADIENT, run_job
from genpolicy.errors import ConfigError, NonFiniteError, suggest
from genpolicy.training import provenance

DISTANCE, RETURN = "W2", "return"
FACTOR = "variant"


def with_problems(suite: Suite, where: str) -> Suite:
    """Fill in what the study says in its own way: problems as tasks, and its variants as levels of a factor.

    Raises:
        ConfigError: for an unknown problem or variant.
    """
    for section in ("common", "variants", CLONING, Q_GRADIENT):
        if section not in suite.study:
            raise ConfigError(f"{where}: a suite of the kind toy needs the section '{section}' of the toy study.")
    problems = _problems(suite)
    for name in suite.task_names:
        if name not in problems:
            raise ConfigError(f"{where}: unknown task '{name}'.{suggest(name, problems)} Known: {', '.join(problems)}.")
    wanted = list(suite.factors.get(FACTOR, ()))
    variants = {one.label: one.overrides for one in toy.find_variants(suite.study, wanted)}
    tasks = suite.tasks or tuple(SuiteTask(name) for name in problems)
    own = [(plan or {}).get("seeds", 1) for plan in problems.values()]
    seeds = suite.seeds if "seeds" in suite.declaration else tuple(range(max(own)))
    return dataclasses.replace(suite, tasks=tasks, factors={FACTOR: variants}, seeds=seeds, metric="task")


def toy_cells(suite: Suite) -> list[Cell]:
    """The cells of the study; a variant that a problem's policy refuses has none there.

    Raises:
        ConfigError: for an override that does not fit.
    """
    import_transport()
    variants = toy.find_variants(suite.study, list(suite.factors[FACTOR]))
    jobs = toy.list_jobs(suite.study, variants, (), 1)
    return [_cell(suite, job) for job in jobs if _task(job) in suite.task_names]


def toy_cell(suite: Suite, task: str, variant: str) -> Cell:
    """One cell.

    Raises:
        ConfigError: if the study has none of this kind.
    """
    for job in toy.list_jobs(suite.study, toy.find_variants(suite.study, [variant]), (), 1):
        if _task(job) == task:
            return _cell(suite, job)
    raise ConfigError(f"The toy study has no run of '{variant}' on '{task}'.")


def run_toy_job(job: Job) -> dict[str, Any]:
    """Do one run of the study; a few seconds, so that it has no checkpoint.

    Raises:
        NonFiniteError: if the final samples are not finite.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small are slower with more
    try:
        overrides = (*job.cell.overrides, f"seed={job.seed}")
        found = run_job(dataclasses.replace(job.cell.extra, overrides=overrides, seed=job.seed))
    finally:
        torch.set_num_threads(threads)
    name = "w2" if job.cell.metric == DISTANCE else "return"
    if found["final"].get(name) is None:
        raise NonFiniteError(f"The samples of {job.task} are not finite after {found['steps']} updates.")
    facts = provenance.collect(None)
    seconds = time.perf_counter() - started
    per_update = found["cpu_seconds_per_1000"] / 1000
    return {
        "state": "completed",
        "score": found["final"][name],
        "evaluations": [
            {"step": one["step"], "phase": "offline", "score": one[name], "return": one.get("return"), "length": None}
            for one in found["curve"]
            if one.get(name) is not None
        ],
        "episodes": 0,
        "updates": found["steps"],
        "updates_per_second": 1 / per_update if per_update else None,
        "act_milliseconds": None,
        "evaluations_per_action": found["evaluations_per_action"],
        "candidates": 1,
        "action_chunk": 1,
        "policy_parameters": found["parameters"],
        "critic_parameters": 0,
        "measures": found["final"],
        "machine": {name: facts[name] for name in ("versions", "hardware", "platform")}
        | {"threads": 1, "device": "cpu"},
        "seconds": seconds,
        "training_seconds": seconds,
    }


def _problems(suite: Suite) -> dict[str, dict[str, Any]]:
    """Each problem's own settings, by the name of its task."""
    cloning, q_gradient = suite.study[CLONING]["densities"], suite.study[Q_GRADIENT]["problems"]
    names = {f"{CLONING}/{name}": plan for name, plan in cloning.items()}
    return names | {f"{Q_GRADIENT}/{name}": plan for name, plan in q_gradient.items()}


def _task(job: toy_runs.Job) -> str:
    return f"{job.part}/{job.problem}"


def _cell(suite: Suite, job: toy_runs.Job) -> Cell:
    own = (text for text in job.overrides if not text.startswith("seed="))
    overrides = (*own, *suite.base)  # above the study's own lengths
    job = dataclasses.replace(job, overrides=overrides)
    metric = DISTANCE if job.part == CLONING else RETURN
    levels = ((FACTOR, job.variant.label),)
    return Cell(suite.name, suite.kind, _task(job), levels, overrides, job.config, Source(None), metric, 1, job)
