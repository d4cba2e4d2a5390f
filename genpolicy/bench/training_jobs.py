"""Jobs that train an agent in a run directory: start or resume them, check them, measure them."""

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from genpolicy.bench.code_version import code_version
from genpolicy.bench.expansion import evaluation_steps
from genpolicy.bench.jobs import Job, Measured, end_of, identity_of
from genpolicy.bench.latency import act_seconds
from genpolicy.config import RunConfig, from_yaml
from genpolicy.errors import CheckpointError, DataError, GenpolicyError
from genpolicy.training.agent import Agent
from genpolicy.training.run import restore, resume, train, train_group
from genpolicy.training.run_directory import RunDirectory
from genpolicy.training.storage import to_json, write_atomic
from genpolicy.training.trainer import TrainResult

_CODE = "code.json"
"""In a run directory: the code that began the run, and how many runs were computed together."""
_MACHINE = ("versions", "hardware", "platform", "threads")


def run_training_job(job: Job, path: Path) -> Measured | None:
    """Train to the end, from a checkpoint if there is one, and measure.

    Args:
        job: what to run.
        path: the run directory; what other code has begun there is thrown away.

    Returns:
        State, score, evaluations and costs; None if training was interrupted.

    Raises:
        GenpolicyError: if the run fails, or its directory was changed by hand; NonFiniteError if it diverges.
    """
    started = time.perf_counter()
    config, before = _prepare(job, path)
    _, trained = train(config) if config.resume is None else resume(config)
    return _measure(job, path, trained, before, time.perf_counter() - started)


def run_training_jobs(jobs: Sequence[Job], paths: Sequence[Path]) -> list[Measured | Exception | None]:
    """Do `run_training_job` for jobs that differ in the seed alone, as one batched computation.

    Args:
        jobs: what to run.
        paths: the run directory of each.

    Returns:
        For each job what `run_training_job` returns or raises.

    Raises:
        GenpolicyError: for what is wrong with all of them.
    """
    started = time.perf_counter()
    prepared = [end_of(_prepare, job, path, len(jobs)) for job, path in zip(jobs, paths, strict=True)]
    ends: list[Any] = [one if isinstance(one, Exception) else None for one in prepared]
    able = {index: one for index, one in enumerate(prepared) if not isinstance(one, Exception)}
    trained = train_group([config for config, _ in able.values()]) if able else []
    seconds = time.perf_counter() - started
    for (index, (_, before)), (_, end) in zip(able.items(), trained, strict=True):
        measured = (jobs[index], paths[index], end, before, seconds)
        ends[index] = end if isinstance(end, Exception) else end_of(_measure, *measured)
    return ends


def _prepare(job: Job, path: Path, together: int = 1) -> tuple[RunConfig, float]:
    """The configuration to begin a job with, or to go on with it, and the seconds that it has taken so far."""
    data = dataclasses.replace(job.config.data, dir=_text(job.cell.source.directory or job.config.data.dir))
    config = dataclasses.replace(job.config, data=data)
    begun = _begun_here(path)
    if begun:
        _check_untouched(path, job)
        together = max(together, _computed_together(path))
    else:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    write_atomic(path / _CODE, to_json(code_version() | {"together": together}))
    if not begun:
        return dataclasses.replace(config, run_dir=str(path)), 0.0
    log = _logged(path, "train")
    return dataclasses.replace(config, resume=str(path)), log[-1]["time/seconds"] if log else 0.0


def _measure(job: Job, path: Path, trained: TrainResult, before: float, seconds: float) -> Measured | None:
    """What is known of a run after its training, which took `seconds`; None if it was interrupted."""
    if trained.state != "completed":
        return None
    started = time.perf_counter()
    facts = json.loads((path / "provenance.json").read_text())
    if facts["dataset_sha256"] != job.dataset_sha256 and job.dataset_sha256 is not None:
        raise DataError(
            f"The data of {job.task} changed while the job ran: sha256 was {job.dataset_sha256} and is "
            f"{facts['dataset_sha256']}. Start `genpolicy bench run` again."
        )
    evaluations = read_evaluations(path, job)
    agent = restore(path, checkpoint="last")
    log = _logged(path, "train")
    counted = [evaluation["score"] for evaluation in evaluations[-job.cell.averaged :]]
    result = {
        "state": "completed",
        "score": sum(counted) / len(counted),
        "evaluations": evaluations,
        "episodes": job.config.trainer.eval_episodes,
        "updates": agent.step,
        "updates_per_second": median(line["time/updates_per_second"] for line in log) if log else None,
        "act_milliseconds": 1000 * _act_seconds(agent, facts["data"]["observation_shape"], job.config),
        **costs_of(agent, job.config),
        "together": _computed_together(path),
        "evaluation_share": trained.evaluation_share,
        "machine": {name: facts[name] for name in _MACHINE} | {"device": job.config.device},
    }
    measuring = time.perf_counter() - started
    return result | {"seconds": before + seconds + measuring, "training_seconds": seconds}


def costs_of(agent: Agent, config: RunConfig) -> dict[str, int]:
    """Network evaluations to act, and sizes."""
    critic = agent.critic_optimizer
    return {
        "evaluations_per_action": agent.policy.head.steps,
        "candidates": agent.policy.acting_candidates,
        "action_chunk": config.data.action_chunk,
        "policy_parameters": sum(one.numel() for one in agent.policy_optimizer.parameters),
        "critic_parameters": 0 if critic is None else sum(one.numel() for one in critic.parameters),
    }


def read_evaluations(path: Path, job: Job) -> list[dict[str, Any]]:
    """The means of each evaluation of a finished run.

    Raises:
        GenpolicyError: if they are not those of such a run.
    """
    found = []
    for line in _logged(path, "eval"):
        values = {name.removeprefix("evaluation/"): value for name, value in line.items()}
        if job.cell.metric not in values:
            known = ", ".join(sorted(values))
            raise GenpolicyError(f"{job.task} is not scored by {job.cell.metric}; its evaluations have {known}.")
        score = float(values[job.cell.metric])
        one = {"step": line["step"], "phase": line["phase"], "score": score}
        found.append(one | {"return": float(values["return"]), "length": float(values["length"])})
    expected = evaluation_steps(job.config)
    if [one["step"] for one in found] != expected:
        raise GenpolicyError(
            f"{path / 'eval.jsonl'} has evaluations at {[one['step'] for one in found]} and not at {expected}: it was "
            f"changed by hand. Delete {path} to run the job again."
        )
    return found


def _begun_here(path: Path) -> bool:
    """Whether there is a run that this code began; of what other code began nothing may enter a result."""
    if not RunDirectory.exists(path):
        return False
    try:
        return json.loads((path / _CODE).read_bytes())["digest"] == code_version()["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _computed_together(path: Path) -> int:
    """How many runs were computed together, this one included, at some time of it."""
    return json.loads((path / _CODE).read_bytes())["together"]


def _check_untouched(path: Path, job: Job) -> None:
    file = path / "config.yaml"
    try:
        stored = from_yaml(file.read_text())
    except (GenpolicyError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} was changed by hand: {error} Delete {path} to run the job again.") from error
    mine, theirs = identity_of(job.config), identity_of(stored)
    if mine != theirs or stored.seed != job.seed:
        changed = ", ".join(_differences(mine, theirs)) or "seed"
        raise CheckpointError(
            f"{file} was changed by hand: it differs from the job in {changed}. Delete {path} to run the job again."
        )


def _differences(mine: Any, theirs: Any, where: str = "") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys([*mine, *theirs])
        found = [_differences(mine.get(key), theirs.get(key), f"{where}.{key}" if where else key) for key in keys]
        return [name for names in found for name in names]
    return [] if mine == theirs else [where]


def _act_seconds(agent: Agent, shape: list[int], config: RunConfig) -> float:
    *sides, last = shape
    dtype = np.uint8 if len(shape) == 3 else np.float32
    return act_seconds(agent, np.zeros((*sides, last * config.data.frame_stack), dtype))


def _logged(path: Path, kind: str) -> list[dict[str, Any]]:
    """The whole lines of a log; a kill may have cut the last one short."""
    file = path / f"{kind}.jsonl"
    lines = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(path)
