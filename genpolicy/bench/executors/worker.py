"""The process in which `LocalExecutor` runs jobs, one after another.

It obeys a pipe. When the pipe breaks, whoever started it is gone: it stops, with a checkpoint if a job is running.
"""

import faulthandler
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from genpolicy.bench.executors.base import Unit, load_function

READY = "ready"
BROKEN = "broken"
"""State of jobs that raised an error: something is wrong with the results folder."""

GRACE_SECONDS = 60.0
"""How long a job may take to write its checkpoint."""


def work(connection: Connection, job: str, number: int, threads: int) -> None:
    """Do what the connection says: (out, keys) is a unit of jobs, None the end.

    Args:
        connection: to the executor; gets (states, detail), and (READY, "") first.
        job: what does jobs, as ``module:function``.
        number: of the worker; it chooses among several GPUs.
        threads: of arithmetic, for jobs that do not say.
    """
    faulthandler.enable()  # a segmentation fault leaves its traceback in the log
    function = load_function(job)
    orders: queue.SimpleQueue[tuple[str, Unit] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    _choose_gpu(number)
    connection.send((READY, ""))
    while (order := orders.get()) is not None:
        out, unit = order
        news = run_unit(function, Path(out), unit, threads)
        with suppress(OSError):  # nobody is there any more; the results are in the folder
            connection.send(news)


def run_unit(
    function: Callable[[Path, Unit], Sequence[str]], out: Path, unit: Unit, threads: int
) -> tuple[str | Sequence[str], str]:
    """Do the jobs of a unit and return their states and, for `BROKEN`, the error."""
    if (torch := sys.modules.get("torch")) is not None:  # imported with `function`
        torch.set_num_threads(threads)  # the last job may have chosen another number
    try:
        return function(out, unit), ""
    except KeyboardInterrupt:
        return "interrupted", ""
    except Exception as error:
        traceback.print_exc()
        return BROKEN, f"{type(error).__name__}: {error}"


def _listen(connection: Connection, orders: queue.SimpleQueue) -> None:
    """Pass orders on; at the end of them stop this process, gently first."""
    order = None
    while True:
        try:
            order = connection.recv()
        except (EOFError, OSError):
            order = None
        orders.put(order)
        if order is None:
            break
    os.kill(os.getpid(), signal.SIGTERM)  # training takes it as a request to save and stop; anything else dies of it
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _choose_gpu(number: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and (count := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % count)  # what `device=cuda` then means


def main() -> None:
    """Work for whoever started this process: DESCRIPTOR JOB NUMBER THREADS."""
    descriptor, job, number, threads = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)  # or a simulator would keep the pipe open
    work(Connection(int(descriptor)), job, int(number), int(threads))
