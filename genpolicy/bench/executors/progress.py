"""A bar of what an executor tells."""

from collections.abc import Iterable, Iterator

from rich.console import Console

from genpolicy.bench.executors.base import Event
from genpolicy.progress import progress_bar

GOOD = ("completed", "done")


def show(events: Iterable[Event], *, total: int, done: int = 0, console: Console | None = None) -> Iterator[Event]:
    """Pass events through and draw a bar of finished jobs; losses and failures are printed above it.

    Args:
        events: of `Executor.run`.
        total: jobs of the plan.
        done: those that were finished before.
        console: where to; standard error by default.
    """
    running: set[str] = set()
    failed = 0
    with progress_bar(console) as bar:
        task = bar.add_task("jobs", total=total, completed=done)
        for event in events:
            if event.state == "started":
                running.add(event.key)
            else:
                running.discard(event.key)
            if event.state == "lost":
                bar.console.print(f"{event.key}: {event.detail}; it is tried again.", style="yellow", markup=False)
            elif event.state in ("failed", "diverged"):
                failed += 1
                bar.console.print(f"{event.key} {event.state}. {event.detail}".rstrip(), style="red", markup=False)
            if event.state in (*GOOD, "failed", "diverged"):
                bar.advance(task)
            counts = [f"{len(running)} running" if running else "", f"{failed} failed" if failed else ""]
            bar.update(task, description=", ".join(["jobs", *filter(None, counts)]))
            yield event
