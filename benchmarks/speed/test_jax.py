"""Our compiled update beside the same update in JAX, at paper size, on the device that JAX takes by default.

Both sides start from the same parameters and their first metrics are compared, so what is timed leads to the same
agent; both products of matrices have the same precision. JAX's side comes in two arrangements (`jax_updates.py`):
"ours" computes what our update computes, "public" what the authors' code computes. With draws "given" an update gets
its random numbers, with "own" it makes them: ours by `Agent.update`, which also checks and encodes the batch; JAX's
within the jitted function. The batch is on the device. A round is several updates queued by the host and one wait for
the device at its end, as in a training loop that reads no metrics. Ours is measured before and after JAX's, and the
ratio is that of the medians.

On a CPU, JAX takes as many threads as the process may use cores; pin it to two to compare like with like
(`taskset --cpu-list 0,1`).
"""

import os
from collections.abc import Callable
from statistics import median
from time import perf_counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.conftest import make, transitions

jax = pytest.importorskip("jax")

from benchmarks.speed import jax_updates  # noqa: E402 - needs jax

BATCH = 256
PRECISIONS = {"float32": "highest", "tensorfloat32": "high"}
"""JAX's names for the precision of products, and torch's."""


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest):
    """The precision of products on both sides; JAX's own default on a GPU is tensorfloat32, torch's is float32."""
    if request.param != "float32" and jax.default_backend() != "gpu":
        pytest.skip("only GPUs have it")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[request.param])
    with jax.default_matmul_precision(request.param):
        yield request.param
    torch.set_float32_matmul_precision(before)


class Ours:
    """Our compiled update with its batch."""

    def __init__(self, algorithm: str, device: str, draws: str):
        self.agent = make(algorithm=algorithm, device=device)
        raw = {name: tensor.to(device) for name, tensor in transitions(BATCH).items()}
        self.batch, self.draws = self.agent.encode(raw), self.agent.draw(BATCH)
        if draws == "given":
            self.update = lambda: self.agent.update_with_draws(self.batch, self.draws)
        else:
            self.update = lambda: self.agent.update(raw)

    def wait(self) -> None:
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize()


class Theirs:
    """The same update in JAX, from the same state."""

    def __init__(self, ours: Ours, draws: str, arrangement: str):
        public, agent, self.key = arrangement == "public", ours.agent, jax.random.key(0)
        batch, given = jax_updates.to_jax(ours.batch), jax_updates.to_jax(ours.draws)
        if public:
            self.state, with_draws = jax_updates.public_state_from(agent), jax_updates.make_public_update(agent)
            given = jax_updates.public_draws(given, self.key)
        else:
            self.state, with_draws = jax_updates.state_from(agent), jax_updates.make_update(agent)
        drawing = jax_updates.make_drawing_update(agent, public=public)
        self.gflop = jax_updates.operations(with_draws, self.state, batch, given) / 1e9

        def update_with_draws():
            self.state, metrics = with_draws(self.state, batch, given)
            return metrics

        def update():
            self.state, self.key, metrics = drawing(self.state, self.key, batch)
            return metrics

        self.update_with_draws, self.update = update_with_draws, update_with_draws if draws == "given" else update

    def wait(self) -> None:
        jax.block_until_ready(self.state)


class Round:
    """Called for one update; waits for the device after every so many."""

    def __init__(self, side: Ours | Theirs, updates: int):
        self.side, self.updates, self.calls = side, updates, 0

    def __call__(self) -> None:
        self.side.update()
        self.calls += 1
        if self.calls % self.updates == 0:
            self.side.wait()


def seconds(call: Callable[[], None], rounds: int, updates: int) -> list[float]:
    """Seconds per update of each round."""
    times = []
    for _ in range(rounds):
        begun = perf_counter()
        for _ in range(updates):
            call()
        times.append((perf_counter() - begun) / updates)
    return times


@pytest.mark.parametrize("draws", ["given", "own"])
@pytest.mark.parametrize("arrangement", ["ours", "public"])
@pytest.mark.parametrize("algorithm", ["meanflow_ql", "fql"])
def test_update_in_jax(benchmark, algorithm: str, arrangement: str, draws: str, precision: str, threads: int) -> None:
    on_gpu = jax.default_backend() == "gpu"
    rounds, updates = (20, 50) if on_gpu else (10, 3)
    ours = Ours(algorithm, "cuda" if on_gpu else "cpu", draws)
    theirs = Theirs(ours, draws, arrangement)
    expected, metrics = ours.agent.update_with_draws(ours.batch, ours.draws), theirs.update_with_draws()
    for name, value in expected.items():
        tolerance = 1e-3 if precision == "float32" else 3e-2  # a tensorfloat32 has 10 bits, and errors add up
        assert metrics[name].item() == pytest.approx(value.item(), rel=tolerance, abs=1e-4), name
    with FlopCounterMode(display=False) as counter:
        ours.agent.update_with_draws(ours.batch, ours.draws)
    ours.agent.accelerate()

    our_round, their_round = Round(ours, updates), Round(theirs, updates)
    seconds(our_round, 2, updates), seconds(their_round, 2, updates)  # compilation, and the first use of memory
    our_times = seconds(our_round, rounds // 2, updates)
    benchmark.pedantic(their_round, rounds=rounds, iterations=updates, warmup_rounds=1)
    our_times += seconds(our_round, rounds // 2, updates)
    gflop = counter.get_total_flops() / 1e9
    benchmark.extra_info.update(
        {
            "ours ms": round(1e3 * median(our_times), 3),
            "ours / JAX": round(median(our_times) / benchmark.stats["median"], 3),
            "GFLOP of ours": round(gflop, 2),
            "GFLOP of JAX": round(theirs.gflop, 2),
            "JAX": f"{jax.__version__} on {jax.devices()[0].device_kind}",
            "precision": precision,
            "batch": BATCH,
            "updates per wait": updates,
        }
        | ({} if on_gpu else {"threads": threads, "JAX's cores": len(os.sched_getaffinity(0))})
    )
