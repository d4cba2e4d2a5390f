"""Collects episodes in this process or in several, with the same result.

Each worker is a spawned process with one pipe: it receives an episode and sends back its arrays. It ends
when the pipe closes, so no worker outlives the process that started it.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from genpolicy.data.generation.recipes import Recipe
from genpolicy.data.generation.rollout import Episode, Simulator
from genpolicy.envs.processes import undisturbed_start
from genpolicy.errors import DataError

Finished = Generator[tuple[Episode, dict[str, np.ndarray]], None, None]


def collect(recipe: Recipe, episodes: Sequence[Episode], *, seed: int, steps: int, workers: int) -> Finished:
    """Collect `episodes` and yield each with its arrays, in the order in which they are finished.

    Close the generator (``contextlib.closing``) to end the worker processes at once.

    Args:
        recipe: what to collect.
        episodes: which episodes.
        seed: of the dataset.
        steps: rows per episode.
        workers: number of processes; 1 collects in the calling process, but images always in one of its own, since
            MuJoCo settles on a way to render when it is imported.

    Raises:
        DataError: if a worker process dies.
        RuntimeError: if the simulation fails in a worker process, with the worker's traceback.
    """
    if not episodes:
        return
    if workers == 1 and not recipe.pixels:
        simulator = Simulator(recipe)
        for episode in episodes:
            yield episode, simulator.collect(episode, seed=seed, steps=steps)
        return
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, Any] = {}
    try:
        for _ in range(min(workers, len(episodes))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, recipe, seed, steps), daemon=True)
            with undisturbed_start():
                process.start()
            theirs.close()
            processes[ours] = process
        yield from _hand_out(processes, episodes)
    finally:
        for connection, process in processes.items():
            connection.close()
            process.terminate()
        for process in processes.values():
            process.join()


def _hand_out(processes: dict[Any, Any], episodes: Sequence[Episode]) -> Finished:
    """Keep each worker busy with the next episode until all episodes have come back."""
    waiting = list(reversed(episodes))
    missing = len(waiting)
    while missing:
        ready: list[Any] = wait(list(processes))
        for connection in ready:
            try:
                episode, arrays, problem = connection.recv()
                if waiting and problem is None:
                    connection.send(waiting.pop())
            except (EOFError, OSError):
                process = processes[connection]
                process.join()
                raise DataError(_death_notice(process.exitcode)) from None
            if problem is not None:
                raise RuntimeError(f"Collecting {episode} failed in a worker process:\n{problem}")
            if arrays is not None:
                missing -= 1
                yield episode, arrays


def _death_notice(exit_code: int | None) -> str:
    return (
        f"A worker process ended unexpectedly (exit code {exit_code}). If it was killed (negative code), "
        "memory may be short: choose fewer workers. Finished episodes are kept, and the same call goes on from them."
    )


def _work(connection: Connection, recipe: Recipe, seed: int, steps: int) -> None:
    """Body of a worker process; its first, empty message asks for an episode."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    episode = None
    try:
        simulator = Simulator(recipe)
        connection.send((None, None, None))
        while True:
            episode = connection.recv()
            arrays = simulator.collect(episode, seed=seed, steps=steps)
            connection.send((episode, arrays, None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send((episode, None, traceback.format_exc()))
