"""Several runs in step: their updates are computed together, and their episodes played together."""

import logging
from collections.abc import Sequence
from typing import Any

from genpolicy.envs import Evaluator
from genpolicy.training.agent_group import AgentGroup
from genpolicy.training.signals import StopSignals
from genpolicy.training.trainer import EvaluationRequest, Run, Trainer, TrainResult, UpdateRequest

logger = logging.getLogger(__name__)

Request = UpdateRequest | EvaluationRequest


def train_together(
    trainers: Sequence[Trainer], group: AgentGroup, *, stop: StopSignals, resume: bool = False
) -> list[TrainResult | Exception]:
    """Train all agents of a group, each in its own run directory, as its trainer would.

    An update waits until every run asks for one, and is then computed for all. A run that is behind (its last session
    was killed before that of others) catches up by itself first. A run that fails ends alone.

    Args:
        trainers: one for each agent of the group, in its order; all with `stop`.
        group: what computes the updates.
        stop: ends all runs after the current step.
        resume: go on with the runs instead of beginning them.

    Returns:
        How each run ended, or the error that ended it.

    Raises:
        KeyboardInterrupt: at the second request to stop.
    """
    together = _Together(trainers, group, [trainer.go_on() if resume else trainer.begin() for trainer in trainers])
    with stop:
        try:
            together.run()
        except BaseException as error:
            together.end(error)
            raise
    return together.ends  # type: ignore[return-value]


class _Together:
    def __init__(self, trainers: Sequence[Trainer], group: AgentGroup, runs: Sequence[Run]):
        self.trainers = trainers
        self.group = group
        self.runs = runs
        self.ends: list[TrainResult | Exception | None] = [None] * len(runs)
        self.requests: dict[int, Request] = {}
        self.batches: list[Any] = [None] * len(runs)  # the last of each, which stand in for a run that has ended

    def run(self) -> None:
        for index in range(len(self.runs)):
            self._advance(index, None)
        while self.requests:
            evaluations = {i: one for i, one in self.requests.items() if isinstance(one, EvaluationRequest)}
            steps = {i: self.group.agents[i].step for i in self.requests if i not in evaluations}
            if evaluations:
                self._evaluate(evaluations)
            elif min(steps.values()) < max(steps.values()):
                for index in (i for i, step in steps.items() if step < max(steps.values())):
                    self._answer(index)
            else:
                self._update()

    def end(self, error: BaseException) -> None:
        """Tell every run of an error that ends all."""
        for index in list(self.requests):
            try:
                self.runs[index].throw(error)
            except BaseException as raised:
                if raised is not error:
                    logger.error("Run %s: %s", self.trainers[index].directory.path, raised)

    def _update(self) -> None:
        for index, request in self.requests.items():
            assert isinstance(request, UpdateRequest)
            self.batches[index] = request.batch
        some = next(iter(self.requests.values())).batch  # type: ignore[union-attr]
        batches = [some if batch is None else batch for batch in self.batches]
        self._align_ended()
        metrics = self.group.update(batches)
        for index in list(self.requests):
            self._advance(index, metrics[index])

    def _align_ended(self) -> None:
        """Bring the step of ended runs' agents to that of the others; what becomes of their numbers is of no matter."""
        step = max(self.group.agents[index].step for index in self.requests)
        for index, end in enumerate(self.ends):
            if end is not None:
                self.group.agents[index].step = step

    def _evaluate(self, requests: dict[int, EvaluationRequest]) -> None:
        """Play the episodes of all runs that are at the same step side by side, in the first one's simulators."""
        first = min(requests)
        evaluator, step = self.trainers[first].evaluator, requests[first].step
        now = {index: one for index, one in requests.items() if one.step == step}
        if len(now) == 1 or not isinstance(evaluator, Evaluator):
            for index in now:
                self._answer(index)
            return
        seeds = [self.trainers[index].evaluator.seed for index in now]  # type: ignore[union-attr]
        acts = [one.act for one in now.values()]
        progress = self.trainers[first].progress
        told = None if progress is None else progress.evaluation
        try:
            found: Sequence[Any] = evaluator.evaluate_all(acts, seeds=seeds, step=step, progress=told)
        except Exception as error:
            logger.warning("The common evaluation failed (%s); each run is evaluated by itself.", error)
            for index in now:
                self._answer(index)
            return
        for index, evaluation in zip(now, found, strict=True):
            self._advance(index, evaluation)

    def _answer(self, index: int) -> None:
        """Do what a run asks for, for it alone."""
        try:
            answer = self.trainers[index].answer(self.requests[index])
        except Exception as error:
            self._advance(index, error)
        else:
            self._advance(index, answer)

    def _advance(self, index: int, answer: Any) -> None:
        run = self.runs[index]
        self.requests.pop(index, None)
        try:
            if isinstance(answer, Exception):
                self.requests[index] = run.throw(answer)
            else:
                self.requests[index] = run.send(answer)
        except StopIteration as end:
            self.ends[index] = end.value
        except Exception as error:
            self.ends[index] = error
            logger.error("The run in %s ended: %s", self.trainers[index].directory.path, error)
