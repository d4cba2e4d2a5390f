"""A bar of what an executor tells."""

from collections.abc import Iterable, Iterator
from typing import Any

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
    running, ended, failed = set[str](), set[str](), set[str]()
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    with progress_bar(console) as bar:
        task = bar.add_task("jobs", total=total, completed=done)
        for event in events:
            if event.state == "started":
                running.add(event.key)
            else:
                running.discard(event.key)
            if event.state == "lost":
                bar.console.print(f"{event.key}: {event.detail}; it is tried again.", style="yellow", **plain)
            elif event.state in ("failed", "diverged"):
                failed.add(event.key)
                bar.console.print(f"{event.key} {event.state}. {event.detail}".rstrip(), style="red", **plain)
            if event.state in GOOD:
                failed.discard(event.key)  # it was tried again
            if event.state in (*GOOD, "failed", "diverged"):
                ended.add(event.key)
            counts = [f"{len(running)} running" if running else "", f"{len(failed)} failed" if failed else ""]
            bar.update(task, completed=done + len(ended), description=", ".join(["jobs", *filter(None, counts)]))
            yield event
