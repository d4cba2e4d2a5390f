# %% [markdown]
"""
# Which head learns which density?

Behaviour cloning in two dimensions, where the law of the data is known, so that one can see what a head makes of it.
Three densities, six heads, one small network and one budget for all.
"""

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import genpolicy
from genpolicy.bench.toy_measures import mode_measures, wasserstein
from genpolicy.data import toy

SMOKE = "--smoke" in sys.argv  # sizes for a test
OUT = Path("examples/out/toy_study" + "_smoke" * SMOKE)
UPDATES, SAMPLES = (20, 200) if SMOKE else (1500, 2000)
torch.set_num_threads(1)  # networks this small are slower with more

# %% [markdown]
"""
A head is one override. MeanFlow has several forms, which predict different things and act by the same jump; two of
them are here. The recipe `bc` clones and needs no critic.
"""

# %%
HEADS = {
    "MeanFlow\nresidual": ["head=meanflow", "head.reformulation=residual"],
    "MeanFlow\nnoise": ["head=meanflow", "head.reformulation=noise"],
    "flow,\n10 steps": ["head=flow"],
    "drifting": ["head=drifting"],
    "mixture of\nGaussians": ["head=mixture"],
    "Gaussian": ["head=gaussian"],
}
DENSITIES = ["moons", "ring", "checkerboard"]
COMMON = [
    "head.backbone=mlp",
    "head.backbone.hidden_dims=[64,64,64]",
    "agent.policy_optimizer.learning_rate=3e-3",
    f"trainer.steps={UPDATES}",  # the horizon of the learning rate's schedule
]


# %% [markdown]
"""
Training an agent takes three lines: make it, draw a batch, update. `sample` then shows what the head has learned,
before anything clips it to the action range.
"""


# %%
def learn(density: toy.Density, overrides: list[str]) -> torch.Tensor:
    """Train an agent on a density and return samples (SAMPLES, 2) of its head."""
    agent = genpolicy.make_agent("bc", observation_shape=(2,), action_dim=2, overrides=[*COMMON, *overrides])
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        agent.update(density.transitions(256, generator))
    observations = toy.observe(torch.zeros(SAMPLES))  # these densities are the same at every observation
    return torch.from_numpy(agent.sample(observations.numpy()))


# %% [markdown]
"""
Two numbers for each: W2, the distance to fresh samples of the law by exact optimal transport, and sharpness, the share
of samples that lie on a mode, in units of the law's own (1 is as sharp as the truth).
"""

# %%
clouds = {}
print(f"{'density':14}{'head':22}{'W2':>7}{'sharpness':>11}")
for name in DENSITIES:
    density = toy.get_density(name)
    angle, generator = torch.zeros(SAMPLES), torch.Generator().manual_seed(1)
    law, again = density.sample(angle, generator), density.sample(angle, generator)
    clouds[name] = {"the law": law} | {head: learn(density, overrides) for head, overrides in HEADS.items()}
    for head, samples in clouds[name].items():
        distance = wasserstein(samples, again)
        sharpness = mode_measures(samples, angle, density, again)["sharpness"]
        print(f"{name:14}{head.replace(chr(10), ' '):22}{distance:7.3f}{sharpness:11.2f}")

# %% [markdown]
"""
The row "the law" is the floor: two samples of one law differ, too. What the figure shows:

- A Gaussian has one mode and smears over the gaps. A mixture of five is sharp where one component has one mode, and
  spread where it has several.
- MeanFlow that predicts the residual draws with one network evaluation what the flow draws with ten.
- MeanFlow that predicts the noise asks for a number that its input does not determine, and fails on every density.
- Nobody separates the modes of the ring yet: what a continuous map leaves between modes shrinks slowly with training.
  This is one seed and a small budget; the page *The toy study* of the documentation has more of both.
"""

# %%
columns = list(clouds[DENSITIES[0]])
figure, axes = plt.subplots(
    len(DENSITIES), len(columns), figsize=(8, 3.9), sharex=True, sharey=True, layout="constrained"
)
line = torch.linspace(-1.3, 1.3, 120)
for row, name in zip(axes, DENSITIES, strict=True):
    height = toy.get_density(name).log_prob(torch.cartesian_prod(line, line)).exp().reshape(120, 120).T
    for panel, head in zip(row, columns, strict=True):
        panel.imshow(height, extent=(-1.3, 1.3, -1.3, 1.3), origin="lower", cmap="Greys", alpha=0.5)
        colour = "#555555" if head == "the law" else "#D55E00"
        panel.scatter(*clouds[name][head].T, s=2, alpha=0.5, linewidths=0, color=colour)
        panel.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=(-1, 1), yticks=(-1, 1))
        panel.tick_params(labelsize=7)
    row[0].set_ylabel(name)
for panel, head in zip(axes[0], columns, strict=True):
    panel.set_title(head, fontsize=9)
figure.supxlabel("first action coordinate", fontsize=9)
figure.supylabel("second action coordinate", fontsize=9)
OUT.mkdir(parents=True, exist_ok=True)
figure.savefig(OUT / "figure.png", dpi=200)
print(f"figure: {OUT / 'figure.png'}")
