# %% [markdown]
"""
# A head with a density

Most generative heads only give samples. This one is a normalising flow of affine coupling layers (RealNVP,
arXiv:1605.08803), which also knows the density of every action. What follows: the head in some forty lines, the kit's
proof that it keeps its promises, what the density opens, and how well it learns where the truth is known.
"""

# %%
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import genpolicy
from genpolicy.bench.toy_measures import wasserstein
from genpolicy.config import compose
from genpolicy.data import toy
from genpolicy.errors import PartsError
from genpolicy.heads import GenerativeHead, HeadLoss
from genpolicy.networks import MLPConfig
from genpolicy.options import Options, option, slot
from genpolicy.registry import BACKBONES, HEADS
from genpolicy.testing import check_head

SMOKE = "--smoke" in sys.argv  # sizes for a test
OUT = Path("examples/out/head_with_density" + "_smoke" * SMOKE)
UPDATES, SAMPLES = (20, 200) if SMOKE else (1500, 2000)
torch.set_num_threads(1)  # networks this small are slower with more

# %% [markdown]
"""
## The head

A layer keeps every other coordinate and moves the rest by a shift and a scale that depend on those kept, so that it can
be undone exactly. Sampling goes through the layers, the density of an action goes back.
"""


# %%
@dataclass(frozen=True)
class CouplingFlowConfig(Options):
    """Hyperparameters of the coupling flow."""

    backbone: Options = slot("backbone", MLPConfig(hidden_dims=(64, 64)), "the network of each layer")
    layers: int = option(6, "coupling layers; even ones keep the coordinates that odd ones move", minimum=2)


@HEADS.register("coupling_flow", config=CouplingFlowConfig)
class CouplingFlow(GenerativeHead):
    """Normalising flow of affine coupling layers, fitted by maximum likelihood; for two action dims or more."""

    def __init__(self, config, *, feature_dim, action_dim):
        super().__init__(config, feature_dim=feature_dim, action_dim=action_dim)
        sizes = {"feature_dim": feature_dim, "input_dim": action_dim, "num_times": 0, "output_dim": 2 * action_dim}
        self.networks = nn.ModuleList(BACKBONES.create(config.backbone, **sizes) for _ in range(config.layers))

    def layer(self, number, features, x):
        """Log-scale and shift of a layer, zero for the coordinates that it keeps."""
        kept = ((torch.arange(self.action_dim, device=x.device) + number) % 2).to(x.dtype)
        log_scale, shift = self.networks[number](features, x * kept).chunk(2, dim=-1)
        return (1 - kept) * 2 * torch.tanh(log_scale / 2), (1 - kept) * shift

    def sample_with_log_prob(self, features, noise):
        """Carry noise (*batch, A) to actions, and say how dense they are (*batch,)."""
        x, log_prob = noise, standard_normal(noise)
        for number in range(self.config.layers):
            log_scale, shift = self.layer(number, features, x)
            x, log_prob = x * log_scale.exp() + shift, log_prob - log_scale.sum(dim=-1)
        return x, log_prob

    def log_prob(self, features, action):
        """Carry actions (*batch, A) back to noise, and say how dense they are (*batch,)."""
        x, log_prob = action, 0.0
        for number in reversed(range(self.config.layers)):
            log_scale, shift = self.layer(number, features, x)
            x, log_prob = (x - shift) * (-log_scale).exp(), log_prob - log_scale.sum(dim=-1)
        return standard_normal(x) + log_prob

    def sample(self, features, noise):
        """Carry noise to actions."""
        return self.sample_with_log_prob(features, noise)[0]

    def draw(self, n, generator):
        """Return nothing: the likelihood needs no random numbers."""
        return ()

    def loss(self, features, action, draws):
        """Return the negative log-likelihood of each row."""
        nll = -self.log_prob(features, action)
        return HeadLoss(nll, nll, {"nll": nll.detach().mean()})


def standard_normal(x):
    """Log-density of the standard normal, summed over the last axis."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(dim=-1)


# %% [markdown]
"""
## The kit

Written is not yet right: samples would look the same with a density that forgets a term. The kit compares what is
promised with what is done, here once with that mistake.
"""


# %%
class Forgetful(CouplingFlow):
    """The same head, but the density of its samples forgets how the layers stretch them."""

    def sample_with_log_prob(self, features, noise):
        """Right action, wrong density."""
        return super().sample_with_log_prob(features, noise)[0], standard_normal(noise)


try:
    check_head(lambda **sizes: Forgetful(CouplingFlowConfig(), **sizes))
except AssertionError as error:
    print(error)
check_head(lambda **sizes: CouplingFlow(CouplingFlowConfig(), **sizes))
print("CouplingFlow keeps what a head promises.")

# %% [markdown]
"""
## What a density opens

`policy=soft`, the rule of SAC, maximises the entropy of the policy, which needs a density. Nothing declares that this
head has one: the two methods are there, and are found.
"""

# %%
accepted = {}
for name in ("coupling_flow", "meanflow"):
    try:
        compose(["algorithm=sac", f"head={name}"])
        accepted[name] = "accepted"
    except PartsError as error:
        accepted[name] = f"refused. {error}"
    print(f"policy=soft head={name}: {accepted[name]}")

# %% [markdown]
"""
## How well does it learn?

Beside MeanFlow, on laws that are known, with as many updates, but six networks where MeanFlow has one. W2 is the
distance to fresh samples, for both. The density allows what samples do not: KL, in nats, how much likelihood is lost
against the truth.
"""


# %%
def learn(density: toy.Density, head: str) -> genpolicy.Agent:
    """Clone a density."""
    overrides = [f"head={head}", "head.backbone=mlp", "head.backbone.hidden_dims=[64,64]", f"trainer.steps={UPDATES}"]
    overrides += ["agent.policy_optimizer.learning_rate=3e-3"]
    agent = genpolicy.make_agent("bc", observation_shape=(2,), action_dim=2, overrides=overrides)
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        agent.update(density.transitions(256, generator))
    return agent


DENSITIES = ["moons", "ring", "checkerboard"]
angle = torch.zeros(SAMPLES)  # these densities are the same at every observation
observations = toy.observe(angle)
line = torch.linspace(-1.3, 1.3, 120)
plane = torch.cartesian_prod(line, line)
seen = toy.observe(torch.zeros(len(plane)))
pictures = {}
for name in DENSITIES:
    density = toy.get_density(name)
    generator = torch.Generator().manual_seed(1)
    truth = density.sample(angle, generator)
    agents = {head: learn(density, head) for head in ("coupling_flow", "meanflow")}
    samples = {head: torch.from_numpy(agent.sample(observations.numpy())) for head, agent in agents.items()}
    ours = agents["coupling_flow"].policy.head
    with torch.no_grad():
        divergence = float((density.log_prob(truth) - ours.log_prob(observations, truth)).mean())
        learned = ours.log_prob(seen, plane).exp()
    pictures[name] = {"law": density.log_prob(plane).exp(), "learned": learned, "samples": samples}
    distances = "  ".join(f"W2 {head} {wasserstein(cloud, truth):.3f}" for head, cloud in samples.items())
    mass = float(learned.sum()) * float(line[1] - line[0]) ** 2
    print(f"{name:13} KL {divergence:.3f} nats  {distances}  mass in view {mass:.3f}")

# %% [markdown]
"""
The picture shows the price of an exact density: a coupling flow bends one blob and cannot tear it, so that the two
moons stay joined, and the modes of the ring hang on one thread that has two ends.

To use such a head in ablations, whose jobs run in processes that do not know this script, put it into a package
(*Extending* in the documentation).
"""

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
figure, axes = plt.subplots(3, 4, figsize=(8, 6), sharex=True, sharey=True, layout="constrained")
view = {"extent": (-1.3, 1.3, -1.3, 1.3), "origin": "lower"}
for row, (name, picture) in zip(axes, pictures.items(), strict=True):
    top = float(picture["law"].max())
    for panel, height in zip(row, ("law", "learned"), strict=False):
        panel.imshow(picture[height].reshape(120, 120).T, cmap="magma", vmin=0, vmax=top, **view)
    for panel, cloud in zip(row[2:], picture["samples"].values(), strict=True):
        panel.imshow(picture["law"].reshape(120, 120).T, cmap="Greys", alpha=0.5, **view)
        panel.scatter(*cloud.T, s=2, alpha=0.5, linewidths=0, color="#D55E00")
        panel.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    row[0].set_ylabel(name)
titles = ("density of the law", "density of the head", "samples of the head", "samples of MeanFlow")
for panel, title in zip(axes[0], titles, strict=True):
    panel.set_title(title)
figure.supxlabel("first action coordinate", fontsize=9)
figure.supylabel("second action coordinate", fontsize=9)
OUT.mkdir(parents=True, exist_ok=True)
figure.savefig(OUT / "figure.png", dpi=200)
print(f"figure: {OUT / 'figure.png'}")
