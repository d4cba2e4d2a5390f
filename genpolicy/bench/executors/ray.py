"""Jobs as tasks of a Ray cluster."""

import importlib.util
import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genpolicy.bench.executors.base import JOB, Event, Losses, Unit, events_of, load_function
from genpolicy.bench.executors.worker import BROKEN, GRACE_SECONDS, run_unit
from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.options import Options, option
from genpolicy.training.signals import StopSignals

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
IN_FLIGHT = 1000
"""Tasks that Ray knows of at the same time: enough for an autoscaler to see what is wanted."""
TOKEN = ".shared"
UNSHARED = "unshared"


@dataclass(frozen=True)
class RayOptions(Options):
    """Options of the engine `ray`."""

    address: str | None = option(
        None, "host:port of the head node; null: $RAY_ADDRESS, else a cluster on this machine, else a new one"
    )
    cpus: float = option(1.0, "CPUs of a job; as many threads of arithmetic", above=0)
    gpus: float = option(0.0, "GPUs of a job; 0.25 puts four on one", minimum=0)
    memory_gb: float | None = option(None, "memory that Ray sets aside for a job; null: none", above=0)


class RayExecutor:
    """Runs jobs as tasks of a Ray cluster: Ray decides where, and starts and watches the processes.

    A job whose process or node dies is submitted again and goes on elsewhere from its checkpoint. The results folder
    must be on a file system that all nodes share, at the same path, and the nodes need the same genpolicy.

    Args:
        workers: jobs at the same time; by default as many as the cluster has room for.
        retries: how many times a job is tried again whose process or node died.
        options: of the cluster and of a job.
        job: what does a job, as ``module:function``.

    Raises:
        ConfigError: if Ray is not installed.
    """

    def __init__(
        self, workers: int | None = None, retries: int = 1, options: RayOptions | None = None, *, job: str = JOB
    ):
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("The engine 'ray' needs Ray: pip install 'genpolicy[ray]'.")
        self.options = options or RayOptions()
        self.workers = workers or IN_FLIGHT
        self.retries = retries
        self._job = job

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        """See `genpolicy.bench.executors.Executor`; there are no events "started": Ray starts tasks unasked."""
        import ray

        out = Path(out).absolute()
        ours = not ray.is_initialized()
        if ours:
            _connect(self.options.address)
        try:
            # After ray.init, which has a handler of its own for SIGTERM.
            with StopSignals() as stop:
                yield from self._run(out, units, stop)
        finally:
            if ours:
                ray.shutdown()

    def _run(self, out: Path, units: Sequence[Unit], stop: StopSignals) -> Iterator[Event]:
        import ray

        token = secrets.token_hex(8)
        (out / TOKEN).write_text(token)
        self._check_nodes(out, token)
        threads = max(1, int(self.options.cpus))
        task = ray.remote(**self._resources, max_retries=0)(_do)
        losses, waiting = Losses(out, self.retries), deque(units)
        running: dict[Any, Unit] = {}
        try:
            while (waiting or running) and not stop.requested:
                while waiting and len(running) < self.workers:
                    unit = waiting.popleft()
                    running[task.remote(str(out), token, self._job, unit, threads)] = unit
                for reference in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                    yield from losses.settle(_outcome(reference, running.pop(reference), out), waiting)
            if stop.requested:
                for reference in running:
                    ray.cancel(reference)  # arrives as SIGINT, which training takes as a request to save and stop
                limit = time.monotonic() + GRACE_SECONDS
                while running and time.monotonic() < limit:
                    for reference in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                        for event in _outcome(reference, running.pop(reference), out):
                            yield Event(event.key, "interrupted") if event.state == "lost" else event
                raise KeyboardInterrupt
        finally:
            for reference in running:
                with suppress(Exception):
                    ray.cancel(reference, force=True)

    @property
    def _resources(self) -> dict[str, Any]:
        memory = self.options.memory_gb
        resources = {"num_cpus": self.options.cpus, "num_gpus": self.options.gpus}
        return resources | ({} if memory is None else {"memory": int(memory * 2**30)})

    def _check_nodes(self, out: Path, token: str) -> None:
        """Look at the results folder from every node that can run jobs.

        Raises:
            ConfigError: if a node does not see it.
        """
        import ray
        from ray import exceptions
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"] and self._fits(node["Resources"])]
        if not nodes:
            logger.warning(
                "No node of the cluster has %g CPUs and %g GPUs for a job now; jobs wait until there is one.",
                self.options.cpus,
                self.options.gpus,
            )
        looks, look = {}, ray.remote(num_cpus=0, max_retries=0)(_sees)
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            looks[node["NodeManagerAddress"]] = look.options(scheduling_strategy=here).remote(str(out), token)
        blind = []
        for address, reference in looks.items():
            try:
                if not ray.get(reference):
                    blind.append(address)
            except exceptions.RayTaskError as error:
                raise _unusable(error) from error
            except exceptions.RayError:
                logger.warning("The node %s was lost before it could run anything.", address)
        if blind:
            raise _unshared(out, ", ".join(blind))

    def _fits(self, resources: Mapping[str, float]) -> bool:
        return resources.get("CPU", 0) >= self.options.cpus and resources.get("GPU", 0) >= self.options.gpus


def _connect(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Cannot connect to the Ray cluster {address or ''}: {' '.join(str(error).split())} "
            "Start one (ray start --head), or name its head node (address=host:port)."
        ) from error


def _do(out: str, token: str, job: str, unit: Unit, threads: int) -> tuple[str | Sequence[str], str, str]:
    """Run the jobs of a unit on whatever node this is; return (states, detail, where)."""
    import ray

    where = ray.util.get_node_ip_address()
    if not _sees(out, token):  # a node that joined after the others had been asked
        return UNSHARED, "", where
    return *run_unit(load_function(job), Path(out), unit, threads), where


def _sees(out: str, token: str) -> bool:
    """Whether this node's `out` is the runner's."""
    try:
        return (Path(out) / TOKEN).read_text() == token
    except OSError:
        return False


def _outcome(reference: Any, unit: Unit, out: Path) -> list[Event]:
    """What became of a task's jobs.

    Raises:
        ConfigError: if its node cannot run jobs.
        GenpolicyError: if the results folder cannot be used.
    """
    import ray
    from ray import exceptions

    try:
        states, detail, where = ray.get(reference)
    except exceptions.TaskCancelledError:
        return events_of(unit, "interrupted")
    except exceptions.RayTaskError as error:
        raise _unusable(error) from error
    except exceptions.RayError as error:
        reason = str(error).strip().splitlines()
        return events_of(unit, "lost", f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}")
    if states == UNSHARED:
        raise _unshared(out, where)
    if states == BROKEN:
        raise GenpolicyError(f"Job {', '.join(unit)} could not be run on {where}: {detail}.")
    return events_of(unit, states, where=where)


def _unshared(out: Path, nodes: str) -> ConfigError:
    return ConfigError(
        f"The results folder {out} is not shared: the node {nodes} of the Ray cluster does not see it. "
        "Choose --out on a file system that all nodes mount at the same path."
    )


def _unusable(error: Exception) -> ConfigError:
    cause = str(error).strip().splitlines()[-1]
    return ConfigError(
        f"A node of the Ray cluster cannot run jobs: {cause}. Install the same genpolicy on all nodes, "
        "in the environment that `ray start` runs in."
    )
