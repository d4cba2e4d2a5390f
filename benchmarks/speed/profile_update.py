"""Where the time of a compiled update goes, by kind of work, on the CPU.

``python -m benchmarks.speed.profile_update meanflow_ql fql`` prints a Markdown table for paper size on two threads, a
row for each recipe; without names, for all of them, which takes a minute or two each. "share of rate" is
GFLOP/s over those of a large matrix product, measured before each; the kinds are shares of the time. The profiler
costs something itself, most for what is many small calls: only the kinds are measured with it.
"""

import argparse
import multiprocessing
from statistics import median
from time import perf_counter

import torch
import torch._inductor.config
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.conftest import chunked, gflop_per_update, make, transitions
from benchmarks.speed.test_update import matmul_gflops
from genpolicy.recipes import recipe_names
from genpolicy.training.compilation import keep_freed_memory

UPDATES = 20
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
KINDS = ("products", "pointwise", "optimiser", "copies", "Python")
"""Matrix products; activations, norms and losses; optimiser and targets, and what is fused with them; other calls of
torch; the rest."""


def kind_of(name: str) -> str:
    products, pointwise, optimiser, copies, python = KINDS
    if name in PRODUCTS:
        return products
    if "fused" in name:
        return optimiser if "foreach" in name else pointwise
    return copies if name.startswith("aten::") else python


def row(algorithm: str) -> str:
    """Measure one recipe."""
    torch.set_num_threads(2)
    keep_freed_memory()
    torch._inductor.config.cpp.enable_kernel_profile = True
    agent = make(algorithm=algorithm)
    batch = chunked(agent, transitions(256))
    gflop, period = gflop_per_update(agent, batch), agent.config.policy_every
    agent.accelerate()
    for _ in range(6):
        agent.update(batch)
    rate, times = matmul_gflops(), []
    for _ in range(UPDATES):
        begun = perf_counter()
        for _ in range(period):
            agent.update(batch)
        times.append((perf_counter() - begun) / period)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(UPDATES):
            agent.update(batch)
    spent = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    seconds = median(times)
    shares = " | ".join(f"{spent[kind] / sum(spent.values()):.0%}" for kind in KINDS)
    return f"| `{algorithm}` | {gflop:.2f} | {1e3 * seconds:.1f} | {gflop / seconds / rate:.0%} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help="recipes; all without any")
    algorithms = parser.parse_args().algorithms or recipe_names()
    columns = ("recipe", "GFLOP", "ms", "share of rate", *KINDS)
    print("|", " | ".join(columns), "|\n| --- |", " | ".join(["---:"] * (len(columns) - 1)), "|", flush=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # a process for each
        for line in pool.imap(row, algorithms):
            print(line, flush=True)


if __name__ == "__main__":
    main()
