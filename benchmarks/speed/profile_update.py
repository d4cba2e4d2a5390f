"""Where the time of a compiled update goes, by kind of work, on the CPU.

``python -m benchmarks.speed.profile_update meanflow_ql`` prints a Markdown table for paper size on two threads. The
profiler costs something itself, most for what is many small calls; the shares are what counts.
"""

import argparse

import torch
import torch._inductor.config
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.conftest import make, transitions
from genpolicy.training.compilation import keep_freed_memory

UPDATES = 20
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


def kind_of(name: str) -> str:
    if name in PRODUCTS:
        return "matrix products"
    if "fused" in name:
        return "optimiser and targets" if "foreach" in name else "activations, norms, losses"
    return "copies and the norm of gradients" if name.startswith("aten::") else "Python and the compiler's guards"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algorithm")
    algorithm = parser.parse_args().algorithm
    torch.set_num_threads(2)
    keep_freed_memory()
    torch._inductor.config.cpp.enable_kernel_profile = True
    agent, batch = make(algorithm=algorithm), transitions(256)
    agent.accelerate()
    for _ in range(5):
        agent.update(batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(UPDATES):
            agent.update(batch)
    kinds: dict[str, tuple[float, float]] = {}
    for event in profiler.key_averages():
        spent, calls = kinds.get(kind_of(event.key), (0.0, 0.0))
        kinds[kind_of(event.key)] = spent + event.self_cpu_time_total / UPDATES, calls + event.count / UPDATES
    total = sum(spent for spent, _ in kinds.values())
    print(f"| {algorithm} | ms per update | share | calls |\n|---|---|---|---|")
    for kind, (spent, calls) in sorted(kinds.items(), key=lambda one: -one[1][0]):
        print(f"| {kind} | {spent / 1e3:.1f} | {spent / total:.0%} | {calls:.0f} |")


if __name__ == "__main__":
    main()
