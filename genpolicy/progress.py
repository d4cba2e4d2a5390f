"""Progress bars with rate and time left."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


def progress_bar(console: Console | None = None, *, transient: bool = False) -> Progress:
    """A bar of: description, bar, done/total, rate, time left; on standard error by default.

    Args:
        console: where to.
        transient: remove the bars at the end, also after an error.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console or Console(stderr=True),
        speed_estimate_period=20.0,
        transient=transient,
    )


class TrainingBar:
    """A bar for training, and one for the evaluation that runs; what `Trainer` calls ``progress``.

    Args:
        online_after: steps after which the online phase begins; None without one.
    """

    def __init__(self, online_after: int | None = None) -> None:
        self._online_after = online_after
        self._bar = progress_bar()
        self._training = self._bar.add_task("training", total=None)
        self._evaluation = self._bar.add_task("evaluation", total=None, visible=False)

    def update(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show the number of steps done; the first call draws the bar, so that an early error stands alone."""
        online = self._online_after is not None and step > self._online_after
        self._bar.start()
        self._bar.update(self._training, completed=step, total=total, description="online" if online else "training")
        if self._bar.tasks[self._evaluation].visible:
            self._bar.update(self._evaluation, visible=False)

    def evaluation(self, done: int, total: int) -> None:
        """Show the number of finished episodes."""
        self._bar.update(self._evaluation, completed=done, total=total, visible=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
