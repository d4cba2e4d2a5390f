# %% [markdown]
"""
# Compare two heads

Is MeanFlow a better head than a Gaussian? One critic, one rule, one maze, several seeds of each, through the runner
of all ablations, from Python. What differs beyond the head is luck, and the intervals say how much luck explains.
"""

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from genpolicy.bench.executors.local import LocalExecutor
from genpolicy.bench.runner import run_suite
from genpolicy.bench.suite_reading import read_suite
from genpolicy.bench.suite_report import analyse, load_studies, write_report

SMOKE = "--smoke" in sys.argv  # sizes for a test
OUT = Path("examples/out/compare_two_heads" + "_smoke" * SMOKE)

# %% [markdown]
"""
## The suite

What a YAML file of `benchmarks/suites` holds, as a mapping. The base is MeanFlowQL: a TD critic, and a head that
follows its gradient, held to the data by cloning. A level of the factor changes the head and nothing else.
"""

# %%
TASK = "pointmaze-medium-navigate-singletask-task5-v0"
sizes = {
    "tasks": {TASK: {"generate": 2 if SMOKE else 50}},
    "seeds": 2 if SMOKE else 4,
    "base": [
        "algorithm=meanflow_ql",
        *(["preset=smoke"] if SMOKE else ["preset=small", "trainer.steps=2000", "trainer.eval_every=500"]),
        "trainer.eval_workers=1",
    ],
}
suite = read_suite(
    "two_heads",
    {
        "title": "Is MeanFlow a better head than a Gaussian?",
        "question": "Both follow the same critic on the same data, with as many updates.",
        "factors": {"head": {"meanflow": "head=meanflow", "gaussian": "head=gaussian"}},
        "baseline": {"head": "gaussian"},
        **sizes,
    },
    where="compare_two_heads.py",
)

# %% [markdown]
"""
## Running it

Two jobs at a time, each in a process of its own. What is finished is not repeated: stop the script and start it again.
"""

# %%
outcome = run_suite(suite, OUT, executor=LocalExecutor(workers=2), generate=True)
print(f"{outcome.status.completed} of {outcome.status.jobs} jobs completed")

# %% [markdown]
"""
## What can be said

Each score is the share of episodes that reach the goal, after the last update. The interval of a head is Student's t
over seeds: where the mean would lie with many more of them. The difference pairs seeds, and is supported by the data
if its interval excludes zero.
"""

# %%
analysis = analyse(load_studies(OUT)["two_heads"])
groups = {one.label: analysis.groups[TASK, one] for one in analysis.configurations}
for label, group in groups.items():
    mean = group.mean
    print(f"{label:10} {mean.value:.2f}  [{mean.low:.2f}, {mean.high:.2f}]  seeds {group.values.round(2).tolist()}")
(difference,) = analysis.differences.values()
estimate = difference.estimate
print(f"difference {estimate.value:+.2f}  [{estimate.low:+.2f}, {estimate.high:+.2f}]  {difference.verdict}")

# %% [markdown]
"""
`write_report` makes the page that `genpolicy bench run` makes, with tables, costs, and every run. Here one figure of
our own from the same numbers.
"""

# %%
print(f"report: {write_report(OUT)}")
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
figure, (curves, scores, gain) = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=(1.5, 1, 0.7), layout="constrained")
COLOURS = {"meanflow": "#0072B2", "gaussian": "#D55E00"}
for place, (label, group) in enumerate(groups.items()):
    colour = COLOURS[label]
    steps = [one["step"] for one in group.runs[0]["evaluations"]]
    shares = np.array([[one["score"] for one in run["evaluations"]] for run in group.runs])
    curves.plot(steps, shares.T, color=colour, alpha=0.35, linewidth=0.8)
    curves.plot(steps, shares.mean(axis=0), color=colour, linewidth=2, marker="o", markersize=4, label=label)
    mean = group.mean
    scores.plot([place] * 2, [mean.low, mean.high], color=colour, linewidth=2)
    scores.plot(place, mean.value, marker="o", color=colour)
    scores.scatter(np.full(len(group.values), place + 0.2), group.values, s=12, color="0.5")
curves.set(xlabel="updates", ylabel="share of episodes at the goal", ylim=(-0.03, 1.03), title="during training")
curves.legend(frameon=False)
scores.set(xlim=(-0.5, 1.5), ylim=(-0.03, 1.03), title="at the end")
scores.set_xticks(range(len(groups)), groups)
gain.axhline(0, color="0.5", linewidth=1)
gain.plot([0, 0], [estimate.low, estimate.high], color="black", linewidth=2)
gain.plot(0, estimate.value, marker="o", color="black")
gain.set(xlim=(-1, 1), title="paired difference")
gain.set_xticks([0], ["meanflow - gaussian"])
for panel in (curves, scores, gain):
    panel.grid(axis="y", alpha=0.3)
figure.savefig(OUT / "figure.png", dpi=200)
print(f"figure: {OUT / 'figure.png'}")
