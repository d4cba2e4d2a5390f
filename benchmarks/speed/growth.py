"""How the time of an update grows with batch, width, candidates, ensemble and seeds: one panel each, with the exponent.

``python -m benchmarks.speed.growth --out docs/assets`` writes speed_growth.png and speed_growth.json. Updates of
MeanFlowQL are eager, since every point would have to be compiled by itself; the exponent is the slope of the log of the
median time over the log of the size, at the three largest sizes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np
import torch

from benchmarks.speed.conftest import make, transitions
from genpolicy.training.agent_group import AgentGroup
from genpolicy.training.compilation import keep_freed_memory

Update = Callable[[], object]


def by_batch(size: int) -> Update:
    agent, batch = make(), transitions(size)
    return lambda: agent.update(batch)


def by_width(size: int) -> Update:
    agent, batch = make(f"head.backbone.width={size // 2}", f"critic.hidden_dims={4 * [size]}"), transitions(256)
    return lambda: agent.update(batch)


def by_candidates(size: int) -> Update:
    agent, batch = make(f"policy.num_candidates={size}"), transitions(256)
    return lambda: agent.update(batch)


def by_ensemble(size: int) -> Update:
    agent, batch = make(f"critic.ensemble_size={size}"), transitions(256)
    return lambda: agent.update(batch)


def by_seeds(size: int) -> Update:
    group = AgentGroup([make("preset=small", f"seed={seed}") for seed in range(size)])
    batches = [transitions(128)] * size
    return lambda: group.update(batches)


AXES: dict[str, tuple[Callable[[int], Update], list[int], str]] = {
    "batch": (by_batch, [32, 64, 128, 256, 512, 1024], "rows of a batch"),
    "width": (by_width, [64, 128, 256, 512, 1024], "width of the critic's layers\n(the transformer's token: half)"),
    "candidates": (by_candidates, [1, 2, 4, 8, 16, 32], "candidates of a next action"),
    "ensemble": (by_ensemble, [1, 2, 4, 8, 16], "members of the critic"),
    "seeds": (by_seeds, [1, 2, 4, 8, 16], "seeds in one process\n(preset small)"),
}


def seconds(update: Update, rounds: int = 7) -> float:
    """Median time of an update after two others."""
    times = []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        update()
        times.append(time.perf_counter() - begun)
    return median(times[2:])


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope in logarithms over the three largest sizes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)[0])


def draw(found: dict[str, dict], path: Path) -> None:
    """One panel for each axis."""
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(15, 3.4), layout="constrained")
    for panel, (name, (_, _, label)) in zip(panels, AXES.items(), strict=True):
        sizes = found[name]["sizes"]
        panel.loglog(sizes, [1e3 * one for one in found[name]["seconds"]], "o-", color="#3f51b5")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_title(f"exponent {found[name]['exponent']:.2f}")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ms per update")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of figure and numbers")
    out = parser.parse_args().out
    torch.set_num_threads(2)
    keep_freed_memory()
    found = {}
    for name, (build, sizes, _) in AXES.items():
        times = [seconds(build(size)) for size in sizes]
        found[name] = {"sizes": sizes, "seconds": times, "exponent": round(exponent(sizes, times), 2)}
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed_growth.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found, out / "speed_growth.png")


if __name__ == "__main__":
    main()
