"""Where the jobs of a suite run: processes of this machine, a Ray cluster, or SLURM."""

from genpolicy.bench.executors.base import Event, Executor
from genpolicy.bench.executors.factory import ENGINES, make_executor

__all__ = ["ENGINES", "Event", "Executor", "make_executor"]
