"""The training loop: updates, logs, evaluations and checkpoints, each at its own interval.

The loop counts steps: updates on the dataset in the offline phase, steps in the environment, each with its updates,
in the online phase after it. A run killed at any moment goes on from its newest checkpoint and ends with the same
weights and logs, bit for bit: a checkpoint holds everything that the next update depends on, the replay included, and
what was logged after it is dropped and made again.
"""

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from genpolicy.errors import CheckpointError, ConfigError, StorageError
from genpolicy.training import checkpoint, snapshot, storage
from genpolicy.training.finite import check_losses, check_weights, fetch, on_cpu
from genpolicy.training.interfaces import OnlinePhase, PolicyEvaluator, Progress, Sampler, Settings, TrainableAgent
from genpolicy.training.loggers import Logger, Phase
from genpolicy.training.run_directory import RunDirectory, RunState
from genpolicy.training.signals import StopSignals

logger = logging.getLogger(__name__)

METRIC_FORMULAS = {
    "time/updates_per_second": "updates since the last line / their seconds, without evaluations and checkpoints",
    "time/seconds": "wall-clock time of the run so far, of all its sessions, with evaluations",
    "time/evaluation_share": "sum of evaluation/seconds so far / time/seconds",
}
"""What the metrics of time are, by name."""

STATUS_SECONDS = 1.0
"""Shortest time between two updates of status.json while training runs."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of `Trainer.run` or `Trainer.resume` ended."""

    state: Literal["completed", "interrupted"]
    step: int
    """Steps done, those of earlier sessions included."""
    updates: int
    """Steps done by this call; 0 when the run had been complete before."""
    last_eval: dict[str, float] | None
    """Metrics of the last evaluation."""
    best: dict[str, Any] | None
    """Name, step, metric and value of the best evaluation."""
    seconds: float
    """Wall-clock time of the run, of all its sessions."""
    evaluation_seconds: float
    """What of it was spent in evaluations."""

    @property
    def evaluation_share(self) -> float:
        """Share of the run's time that was spent in evaluations."""
        return self.evaluation_seconds / self.seconds


@dataclass(frozen=True)
class UpdateRequest:
    """A run asks for the next update of its agent on this batch; the answer is the update's metrics."""

    batch: dict[str, Tensor]


@dataclass(frozen=True)
class EvaluationRequest:
    """A run asks for an evaluation of its agent at a step; the answer is an `Evaluation`."""

    act: Any
    step: int


Run = Generator[UpdateRequest | EvaluationRequest, Any, TrainResult]
"""Training in progress: it asks for updates and evaluations one after another, and returns how it ended."""


class Trainer:
    """Trains an agent in a run directory.

    At a step where several things are due, their order is: log, evaluation, checkpoint. The end of each phase is
    evaluated, and evaluations and logs say which phase the last step belongs to. A checkpoint is written every
    `checkpoint_every` steps, at each new best evaluation, when stopped, and at the end. SIGINT or SIGTERM ends the run
    after the current step; a second one raises KeyboardInterrupt.

    Args:
        agent: a new agent; `resume` loads its state.
        sampler: batches for training.
        config: numbers of steps and intervals.
        run: where logs and checkpoints go.
        loggers: closed by the caller.
        evaluator: closed by the caller; without one nothing is evaluated.
        validation: batches of held-out transitions for the losses under ``validation/``.
        metric: the evaluation's metric that decides which checkpoint is best; larger is better.
        progress: is told about each step.
        online: the online phase, which learns from `sampler` too; needed if `config` has online steps.
        stop: requests to stop, if several trainers share them.
    """

    def __init__(
        self,
        agent: TrainableAgent,
        sampler: Sampler,
        *,
        config: Settings,
        run: RunDirectory,
        loggers: Sequence[Logger],
        evaluator: PolicyEvaluator | None = None,
        validation: Sampler | None = None,
        metric: str = "evaluation/success",
        progress: Progress | None = None,
        online: OnlinePhase | None = None,
        stop: StopSignals | None = None,
    ):
        self.agent = agent
        self.sampler = sampler
        self.config = config
        self.directory = run
        self.loggers = loggers
        self.evaluator = evaluator
        self.validation = validation
        self.metric = metric
        self.progress = progress
        self.online = online
        self.offline_steps = config.pretrain_steps + config.steps
        self.total = self.offline_steps + config.online_steps
        self._parts = {"agent": agent, "sampler": sampler, "validation": validation, "interaction": online}
        self.best: dict[str, Any] | None = None
        self.last_eval: dict[str, float] | None = None
        self._evaluated = 0  # step of the last evaluation
        self._seconds = 0.0  # spent by earlier sessions
        self._evaluation_seconds = 0.0  # spent in evaluations, by all sessions
        self._saved = (-1, 0)  # step of the newest checkpoint, and of the evaluation that it knows
        self._shown: dict[str, float] = {}  # metrics logged last
        self._stop = stop or StopSignals()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.agent.step if self.online is None else min(self.agent.step, self.offline_steps) + self.online.steps

    @property
    def phase(self) -> Phase:
        """What the last step belongs to."""
        return "online" if self.step > self.offline_steps else "offline"

    def run(self) -> TrainResult:
        """Train from the beginning.

        Raises:
            ConfigError: if the directory already holds checkpoints, or another process trains in it.
            NonFiniteError: if a loss or a weight is NaN or infinite.
            StorageError: if the disk refuses a write.
        """
        return self._drive(self.begin())

    def resume(self) -> TrainResult:
        """Go on from the newest intact checkpoint, or from the beginning if none was written yet.

        Returns:
            At once, with ``updates`` 0, if the run is complete.

        Raises:
            CheckpointError: if no checkpoint is intact, or it belongs to another configuration.
            ConfigError, NonFiniteError, StorageError: as `run` does.
        """
        return self._drive(self.go_on())

    def answer(self, request: UpdateRequest | EvaluationRequest) -> Any:
        """Do what a run asks for."""
        if isinstance(request, UpdateRequest):
            return self.agent.update(request.batch)
        assert self.evaluator is not None
        progress = None if self.progress is None else self.progress.evaluation
        return self.evaluator.evaluate(request.act, step=request.step, progress=progress)

    def _drive(self, run: Run) -> TrainResult:
        try:
            request = next(run)
            while True:
                try:
                    answer = self.answer(request)
                except BaseException as error:
                    request = run.throw(error)
                else:
                    request = run.send(answer)
        except StopIteration as end:
            return end.value

    def begin(self) -> Run:
        """`run` as a generator, whose requests the caller answers."""
        with self._clean_directory():
            if checkpoint.names(self.directory.checkpoints):
                raise ConfigError(
                    f"{self.directory.path} already holds checkpoints. Go on with them by "
                    f"resume={self.directory.path}, or choose another run_dir."
                )
            self._start_afresh()
            return (yield from self._train())

    def go_on(self) -> Run:
        """`resume` as a generator, whose requests the caller answers."""
        with self._clean_directory():
            path = checkpoint.latest(self.directory.checkpoints)
            if path is None:
                self._start_afresh()
            else:
                self._restore(*checkpoint.load(path))
                checkpoint.set_aside_newer(self.directory.checkpoints, path.name)
                checkpoint.set_best(self.directory.checkpoints, self.best)
                checkpoint.prune(self.directory.checkpoints)
                self.directory.truncate_logs(self.step, self._evaluated)
            return (yield from self._train())

    @contextmanager
    def _clean_directory(self) -> Iterator[None]:
        """Hold the directory's lock, after removing what a killed process left half-written."""
        with self.directory.lock():
            storage.remove_temporaries(self.directory.path)
            checkpoint.clean(self.directory.checkpoints)
            yield

    def _start_afresh(self) -> None:
        if self.agent.step:
            raise ConfigError(f"The agent has done {self.agent.step} updates already; a run begins with a new agent.")
        self.directory.truncate_logs(0)

    def _train(self) -> Run:
        first = self.step
        self._began = self._mark = time.perf_counter()
        self._counted = self.agent.step
        self._status_at = -math.inf
        try:
            with self._stop:
                state = yield from self._loop()
            self.directory.set_status(state, self.step)
        except BaseException as error:
            at_once = isinstance(error, KeyboardInterrupt | GeneratorExit)
            self._report("interrupted" if at_once else "failed", f"{type(error).__name__}: {error}")
            raise
        done = self.step - first
        return TrainResult(state, self.step, done, self.last_eval, self.best, self._elapsed(), self._evaluation_seconds)

    def _loop(self) -> Generator[Any, Any, Literal["completed", "interrupted"]]:
        total, every = self.total, self.config
        self._show_status(self.step)
        self._show_progress()
        if self._evaluation_due(self.step):  # the last session stopped before it
            yield from self._evaluate_and_save(save=False)
        while self.step < total and not self._stop.requested:
            if self.step < self.offline_steps:
                metrics = yield UpdateRequest(self.sampler.sample())
            else:
                assert self.online is not None
                metrics = self.online.advance()
            step = self.step
            log = _due(every.log_every, step) or (every.log_every > 0 and step == total)
            evaluate = self._evaluation_due(step)
            save = _due(every.checkpoint_every, step) or step == total
            # Reading a GPU's losses waits for it, so there they are read only when something else does.
            if log or evaluate or save or on_cpu(metrics):
                check_losses(step, metrics)
            if log:
                self._log(step, metrics)
            self._show_progress()
            if evaluate or save:
                yield from self._evaluate_and_save(save)
        if self._saved != (self.step, self._evaluated):
            self._save()
        complete = self.step >= total and not self._evaluation_due(self.step)
        return "completed" if complete else "interrupted"

    def _evaluation_due(self, step: int) -> bool:
        if self.evaluator is None or self.config.eval_every <= 0 or step == 0 or step == self._evaluated:
            return False
        return _due(self.config.eval_every, step) or step in (self.offline_steps, self.total)

    def _log(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        values = fetch(metrics)
        rate = (self.agent.step - self._counted) / max(time.perf_counter() - self._mark, 1e-9)
        if self.validation is not None:
            losses = fetch(self.agent.evaluate_losses(self.validation.sample()))
            values |= {f"validation/{name}": value for name, value in losses.items()}
        if self.online is not None:
            values |= self.online.metrics()
        seconds = self._elapsed()
        share = self._evaluation_seconds / seconds
        values |= {"time/updates_per_second": rate, "time/seconds": seconds, "time/evaluation_share": share}
        for target in self.loggers:
            target.log("train", step, values, phase=self.phase)
        self._shown = values
        self._show_status(step)
        self._counted, self._mark = self.agent.step, time.perf_counter()

    def _evaluate_and_save(self, save: bool) -> Generator[Any, Any, None]:
        """Evaluate if due and save; a request to stop leaves the evaluation to the next session."""
        began = time.perf_counter()
        improved = False
        if self._evaluation_due(self.step) and not self._stop.requested:
            improved = yield from self._evaluate()
        if save or improved:
            self._save()
        self._mark += time.perf_counter() - began  # these seconds are not the updates'

    def _evaluate(self) -> Generator[Any, Any, bool]:
        """Evaluate and log; return whether the score is the best so far."""
        step = self.step

        def act(observations: Any, generators: Any) -> Any:
            if self._stop.requested:
                raise _EvaluationStopped
            return self.agent.act(observations, generators)

        try:
            metrics = (yield EvaluationRequest(act, step)).metrics()
        except Exception as error:
            if self._stop.requested:  # Ctrl-C reaches the simulator's processes too, so any error may follow
                logger.info("Evaluation at step %d was cut short (%r); resuming begins with it.", step, error)
                return False
            self._save()  # nothing is wrong with the training: keep it
            raise
        values = {name: float(value) for name, value in metrics.items()}
        for target in self.loggers:
            target.log("eval", step, values, phase=self.phase)
        self.last_eval, self._evaluated = values, step
        self._evaluation_seconds += values.get("evaluation/seconds", 0.0)
        if self.metric not in values:
            logger.warning("No best checkpoint: %r is not among the metrics %s.", self.metric, sorted(values))
            return False
        value = values[self.metric]
        if not math.isfinite(value) or (self.best is not None and value <= self.best["value"]):
            return False
        self.best = {"name": checkpoint.step_name(step), "step": step, "metric": self.metric, "value": value}
        return True

    def _save(self) -> None:
        step = self.step
        tensors = snapshot.gather(self._parts)
        check_weights(step, tensors)
        state = {
            "step": step,
            "total_steps": self.total,
            "best": self.best,
            "last_eval": self.last_eval,
            "evaluated": self._evaluated,
            "seconds": self._elapsed(),
            "evaluation_seconds": self._evaluation_seconds,
            "environment": snapshot.environment(),
        }
        directory = self.directory.checkpoints
        self.directory.sync_logs()
        checkpoint.save(directory, checkpoint.step_name(step), tensors, state)
        if self.best is not None and self.best["step"] == step:
            checkpoint.set_best(directory, self.best)
        checkpoint.prune(directory)
        self._saved = step, self._evaluated
        self._show_status(step)

    def _restore(self, tensors: dict[str, Tensor], state: Mapping[str, Any]) -> None:
        snapshot.distribute(tensors, self._parts, config_file=self.directory.path / "config.yaml")
        if self.step != state["step"]:
            raise CheckpointError(
                f"The checkpoint is of step {state['step']} but its agent of step {self.step}: another "
                "agent wrote it. Resume with the code that made the run."
            )
        self.best, self._evaluated, self._seconds = state["best"], state["evaluated"], state["seconds"]
        self._evaluation_seconds = state.get("evaluation_seconds", 0.0)
        self._saved = state["step"], state["evaluated"]
        if state["last_eval"] is not None:
            self.last_eval = {name: float(value) for name, value in state["last_eval"].items()}
        snapshot.warn_of_other_environment(state["environment"])

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    def _show_status(self, step: int) -> None:
        now = time.perf_counter()
        if now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            self.directory.set_status("running", step)

    def _show_progress(self) -> None:
        if self.progress is not None:
            self.progress.update(self.step, self.total, self._shown)

    def _report(self, state: RunState, error: str) -> None:
        try:
            self.directory.set_status(state, self.step, error)
        except StorageError as problem:
            logger.error("The status could not be written either. %s", problem)


class _EvaluationStopped(Exception):
    """Ends an evaluation when the user asked to stop."""


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
