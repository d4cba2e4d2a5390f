# %% [markdown]
"""
# Train a policy and look inside

A point finds its way through a maze. Data from OGBench's own controller, MeanFlowQL for a minute or two, then three
views of what came out: curves of training, the actions of the head beside the critic's values, the score.
"""

# %%
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import genpolicy
from genpolicy.bench.figures import read_curve
from genpolicy.bench.scoring import evaluate_run
from genpolicy.config import compose
from genpolicy.data import get_task, load_dataset
from genpolicy.data.generation import generate
from genpolicy.envs import make_env
from genpolicy.training.run import train

SMOKE = "--smoke" in sys.argv  # sizes for a test
OUT = Path("examples/out/train_and_inspect" + "_smoke" * SMOKE)
TASK = get_task("pointmaze-medium-navigate-singletask-task5-v0")
shutil.rmtree(OUT, ignore_errors=True)

# %% [markdown]
"""
## Data

The controller walks from anywhere to anywhere: none of it is about this task's goal. The official file has twenty times
as many episodes and would be downloaded; these are made here. Rewards are -1 per step until the goal is reached.
"""

# %%
generate(TASK.dataset, directory=OUT / "data", episodes=2 if SMOKE else 50, workers=2)
dataset, validation = load_dataset(TASK, OUT / "data")
print(f"{len(dataset)} transitions, observations {dataset.observation_shape}, actions {dataset.action_dim}")

# %% [markdown]
"""
## Training

`compose` takes what the command line takes. A run directory holds everything: configuration, logs, checkpoints.
"""

# %%
sizes = (
    ["preset=smoke"]
    if SMOKE
    else ["preset=small", "trainer.steps=4000", "trainer.log_every=100", "trainer.eval_every=500"]
)
config = compose(
    ["algorithm=meanflow_ql", f"task={TASK.name}", f"data.dir={OUT / 'data'}", f"run_dir={OUT / 'run'}", *sizes]
)
run, result = train(config)
print(f"{result.state} after {result.step} updates: {run.path}")

# %% [markdown]
"""
## The score

New episodes, never those of training, and an interval over episodes. It says nothing of other seeds; for that see
`compare_two_heads.py`.
"""

# %%
score = evaluate_run(run.path, episodes=4 if SMOKE else 50)["metrics"]["success"]
print(f"success {score['mean']:.0%}, 95% interval {score['low']:.0%} to {score['high']:.0%}")

# %% [markdown]
"""
## The policy

`load_agent` gives the best checkpoint back. `act` is what the simulator sees: four samples, of which the critic
chooses one. `sample` is the head alone, `q` the critic's ensemble.
"""

# %%
agent = genpolicy.load_agent(run.path)
maze = make_env(TASK).unwrapped
free = np.argwhere(maze.maze_map == 0)  # cells (row, column); their centres are 4 apart
offsets = np.stack(np.meshgrid([-1.2, 0, 1.2], [-1.2, 0, 1.2]), axis=-1).reshape(-1, 2)
places = np.concatenate([np.array(maze.ij_to_xy(tuple(cell))) + offsets for cell in free])
arrows = agent.act(places)
values = agent.q(places, arrows).mean(axis=0)

# %% [markdown]
"""
At one state, the critic over the whole action square, and what lies there: actions of the data nearby, samples of the
head, and the action taken.
"""

# %%
STATES = {"start": (20.0, 4.0), "crossing": (8.0, 8.0), "before the goal": (4.0, 4.0)}
line = np.linspace(-1, 1, 41)
square = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
rows = dataset.transition_rows()
observations, actions = dataset.observations[rows].numpy(), dataset.actions[rows].numpy()
views = {}
for name, state in STATES.items():
    nearby = np.square(observations - state).sum(axis=1).argsort()[:300]
    views[name] = {
        "q": agent.q(np.tile(state, (len(square), 1)), square).mean(axis=0).reshape(41, 41),
        "data": actions[nearby],
        "samples": agent.sample(np.tile(state, (300, 1))),
        "taken": agent.act(np.array([state])),
    }

# %% [markdown]
"""
## One figure

Above: success and losses over training, and the action taken everywhere in the maze. Below: the critic over the action
square at A, B and C, each relative to the best action there.

Near the goal the critic prefers one direction by far, and the head has left the data for it. At the start, a hundred
steps away, actions differ by little; the head still draws as the data do, and the choice among four samples decides.
The cloning loss rises, as it must: the policy is paid for leaving the data.
"""

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
figure, axes = plt.subplots(2, 3, figsize=(8, 5.6), layout="constrained")
for panel in axes.flat:
    panel.set_box_aspect(1)
success, losses, plan = axes[0]

steps, share = read_curve(run.path, "evaluation/success")
success.plot(steps, share, marker="o", markersize=3, color="#0072B2")
success.set(xlabel="updates", ylabel="share of episodes", ylim=(-0.03, 1.03), title="success in the simulator")
steps, loss = read_curve(run.path, "critic/loss", log="train")
losses.plot(steps, loss, color="#D55E00", label="critic: TD error")
steps, loss = read_curve(run.path, "policy/bc_loss", log="train")
losses.plot(steps, loss, color="#009E73", label="head: cloning")
losses.set(xlabel="updates", yscale="log", title="losses")
losses.legend(frameon=False)
for panel in (success, losses):
    panel.grid(alpha=0.3)

plan.imshow(maze.maze_map, extent=(-6, 26, -6, 26), origin="lower", cmap="Greys", vmax=1.6)
drawn = plan.quiver(*places.T, *arrows.T, values, cmap="viridis", scale=18, width=0.009)
plan.plot(*maze.cur_goal_xy, marker="*", markersize=13, color="#D55E00")
for letter, state in zip("ABC", STATES.values(), strict=True):
    plan.annotate(letter, state, ha="center", va="center", bbox={"boxstyle": "circle,pad=0.15", "fc": "w"})
plan.set(xticks=(0, 10, 20), yticks=(0, 10, 20), title="action taken (star: goal)")
figure.colorbar(drawn, ax=axes[0], label="its Q", shrink=0.8)

span = max(np.ptp(view["q"]) for view in views.values())
for panel, letter, (name, view) in zip(axes[1], "ABC", views.items(), strict=True):
    height = panel.imshow(
        view["q"] - view["q"].max(), extent=(-1, 1, -1, 1), origin="lower", cmap="viridis", vmin=-span, vmax=0
    )
    panel.scatter(*view["data"].T, s=6, color="white", edgecolors="0.3", linewidths=0.3, label="data nearby")
    panel.scatter(*view["samples"].T, s=6, color="#D55E00", linewidths=0, label="samples of the head")
    panel.scatter(*view["taken"].T, s=90, marker="*", color="black", edgecolors="w", label="action taken")
    panel.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=(-1, 0, 1), yticks=(-1, 0, 1), title=f"{letter}: {name}")
figure.colorbar(height, ax=axes[1], label="Q minus the largest", shrink=0.8)
axes[1, 0].set_ylabel("second action coordinate")
axes[1, 1].set_xlabel("first action coordinate")
figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
figure.savefig(OUT / "figure.png", dpi=200)
print(f"figure: {OUT / 'figure.png'}")
