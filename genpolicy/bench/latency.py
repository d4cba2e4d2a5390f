"""How long an agent takes to act."""

import time
from statistics import median
from typing import Any

import torch

from genpolicy.training.agent import Agent

WARM_UP_CALLS, TIMED_CALLS = 20, 200


def act_seconds(agent: Agent, observation: Any) -> float:
    """Median wall time of one call of `agent.act` on one observation, after a warm-up, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for _ in range(WARM_UP_CALLS + TIMED_CALLS):
            started = time.perf_counter()
            agent.act(observation)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return median(seconds[WARM_UP_CALLS:])
