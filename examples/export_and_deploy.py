# %% [markdown]
"""
# Export and deploy

A trained policy as one ONNX file, which acts where neither genpolicy nor torch can be imported: the same actions for
the same noise, whole episodes in the simulator, and the time of one action.
"""

# %%
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import genpolicy
from genpolicy.config import compose
from genpolicy.data import get_task
from genpolicy.data.generation import generate
from genpolicy.envs import make_env
from genpolicy.training.run import train

SMOKE = "--smoke" in sys.argv  # sizes for a test
OUT = Path("examples/out/export_and_deploy" + "_smoke" * SMOKE)
TASK = get_task("pointmaze-medium-navigate-singletask-task5-v0")
EPISODES = 2 if SMOKE else 10
shutil.rmtree(OUT, ignore_errors=True)

# %% [markdown]
"""
## A policy

Any run directory will do (`genpolicy.load_agent("runs/...")`); this one is made on the spot.
"""

# %%
generate(TASK.dataset, directory=OUT / "data", episodes=2 if SMOKE else 50, workers=2)
size = ["preset=smoke"] if SMOKE else ["preset=small", "trainer.steps=4000"]
places = [f"task={TASK.name}", f"data.dir={OUT / 'data'}", f"run_dir={OUT / 'run'}"]
run, _ = train(compose(["algorithm=meanflow_ql", *places, *size, "trainer.eval_every=0"]))
agent = genpolicy.load_agent(run.path)

# %% [markdown]
"""
## The file

It holds everything that acting is: normalisation, the candidates, their ranking by the critic, clipping. The noise is
an input, and the file says what to draw it from.
"""

# %%
path = agent.export(OUT / "policy.onnx")
print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")

# %% [markdown]
"""
## A program that knows nothing of genpolicy

onnxruntime, numpy and the simulator are all it imports; the third line makes sure of it.
"""

# %%
PROGRAM = """
import json, sys, time
from pathlib import Path
sys.modules["genpolicy"] = sys.modules["torch"] = None  # importing either is an error from here on

import numpy as np
import ogbench
import onnxruntime

out, task, episodes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
session = onnxruntime.InferenceSession(out / "policy.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["genpolicy.json"])
noise, rng = about["inputs"]["noise"], np.random.default_rng(0)

def act(observation, draws):
    return session.run(["action"], {"observation": observation, "noise": draws})[0]

def draw(n):
    assert noise["law"] == "normal"
    return noise["scale"] * rng.standard_normal((n, *noise["shape"][1:]), dtype=np.float32)

given = np.load(out / "given.npz")
np.save(out / "actions.npy", act(given["observations"], given["noise"]))

env = ogbench.make_env_and_datasets(task, env_only=True)
paths, successes, seconds = [], [], []
for episode in range(episodes):
    np.random.seed(episode)  # OGBench draws the start from the global generator
    observation, _ = env.reset(seed=episode)
    path, done = [observation[:2].tolist()], False
    while not done:
        started = time.perf_counter()
        action = act(observation[None].astype(np.float32), draw(1))[0]
        seconds.append(time.perf_counter() - started)
        observation, _, terminated, truncated, info = env.step(action)
        path.append(observation[:2].tolist())
        done = terminated or truncated
    paths.append(path)
    successes.append(bool(info["success"]))
(out / "deployed.json").write_text(json.dumps({"paths": paths, "successes": successes, "seconds": seconds}))
"""
(OUT / "act.py").write_text(PROGRAM)

# %% [markdown]
"""
## The same actions

The same observations and the same noise on both sides. The generator's numbers are laid out candidates first; the file
takes one row per observation.
"""

# %%
observations = np.random.default_rng(1).uniform(-2, 22, size=(256, 2)).astype(np.float32)
ours = agent.act(observations, torch.Generator().manual_seed(0))
noise = agent.policy.noise(256, torch.Generator().manual_seed(0)).transpose(0, 1).contiguous()
np.savez(OUT / "given.npz", observations=observations, noise=noise.numpy())
subprocess.run([sys.executable, "-I", OUT / "act.py", OUT, TASK.name, str(EPISODES)], check=True)
theirs = np.load(OUT / "actions.npy")
print(f"largest difference of {ours.size} numbers: {np.abs(ours - theirs).max():.1e}")

# %% [markdown]
"""
Not zero in general: another library adds up in another order, in float32. Where two candidates are equally good to the
last digit, that can even change which is taken.

## Episodes, and the time of an action
"""

# %%
deployed = json.loads((OUT / "deployed.json").read_text())
there = 1000 * np.array(deployed["seconds"])
here = []
for observation in observations:
    started = time.perf_counter()
    agent.act(observation)
    here.append(1000 * (time.perf_counter() - started))
print(f"success {sum(deployed['successes'])} of {EPISODES}")
print(f"median time of an action: {np.median(there):.3f} ms deployed, {np.median(here):.3f} ms by agent.act")

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
figure, (plan, times) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(1.3, 1), layout="constrained")
maze = make_env(TASK).unwrapped
plan.imshow(maze.maze_map, extent=(-6, 26, -6, 26), origin="lower", cmap="Greys", vmax=1.6)
for way in deployed["paths"]:
    plan.plot(*np.array(way).T, linewidth=1, alpha=0.7, color="#0072B2")
    plan.plot(*way[0], marker="o", markersize=4, color="#0072B2")
plan.plot(0, 0, marker="*", markersize=13, color="#D55E00")
plan.set(title=f"{EPISODES} episodes of the file (dot: start, star: goal)", xticks=(0, 10, 20), yticks=(0, 10, 20))
bars = times.barh(["agent.act", "onnxruntime"], [np.median(here), np.median(there)], height=0.5, color="#0072B2")
times.bar_label(bars, fmt="%.2f ms", padding=4)
times.set(xlabel="milliseconds", title="median time of an action", xlim=(0, 1.25 * np.median(here)))
times.grid(axis="x", alpha=0.3)
figure.savefig(OUT / "figure.png", dpi=200)
print(f"figure: {OUT / 'figure.png'}")
