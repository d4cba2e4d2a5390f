"""One run of the toy study: train an agent where law and value are known, and measure its samples on the way."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import genpolicy
from genpolicy.batch import Batch
from genpolicy.bench.toy_measures import bound_measures, mode_measures, wasserstein
from genpolicy.config import RunConfig, compose, to_tree
from genpolicy.critics.base import ActionSource, Critic, CriticConfig, CriticLoss
from genpolicy.data import toy
from genpolicy.training.agent import Agent
from genpolicy.training.assembly import build_agent

CLONING, Q_GRADIENT = "cloning", "q_gradient"
TRANSPORT_SAMPLES, COUNTED_SAMPLES = 2_000, 10_000
PROBE_ANGLES = 4
FIELD_LINE = 17


@dataclass(frozen=True)
class Variant:
    """A row of the table: a label and the overrides that make it."""

    label: str
    overrides: tuple[str, ...]
    source: str = ""
    """The program text of a part that is not the library's: a change of it makes a run another one."""


@dataclass(frozen=True)
class Job:
    """One run: everything that determines its result."""

    part: str
    problem: str
    """What it is called in the table."""
    variant: Variant
    density: str
    value: str | None
    """Name of the known Q; None for cloning."""
    overrides: tuple[str, ...]
    seed: int
    measure_at: tuple[float, ...]
    """Shares of training at which the samples are measured; the last is 1."""

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return compose(self.overrides)

    def file(self, directory: Path) -> Path:
        """Where its result lies: the name ends in a hash of the resolved configuration."""
        identity = asdict(self) | {"overrides": to_tree(self.config), "version": genpolicy.__version__}
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:10]
        return directory / f"{self.part}-{self.problem}-{self.variant.label}-seed{self.seed}-{key}.json"


@dataclass(frozen=True)
class KnownQConfig(CriticConfig):
    """Hyperparameters of a known Q: none."""


class KnownQ(Critic):
    """A critic that need not learn: its value is a given function of the action.

    Its one parameter takes part in nothing; an agent expects a critic to have something to optimise.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__(KnownQConfig(), feature_dim=toy.OBSERVATION_DIM, action_dim=toy.ACTION_DIM)
        self.function = function
        self.nothing = nn.Parameter(torch.zeros(()))

    def q(self, features: Tensor, action: Tensor) -> Tensor:
        """Return the known value, (1, \\*batch)."""
        return self.function(action)[None]

    def target_q(self, features: Tensor, action: Tensor) -> Tensor:
        """Return the same."""
        return self.q(features, action)

    def draw(self, n: int, policy: ActionSource, generator: torch.Generator) -> tuple[()]:
        """Return nothing."""
        return ()

    def loss(self, batch: Batch, policy: ActionSource, draws: Any) -> CriticLoss:
        """Return zero."""
        return CriticLoss(0.0 * self.nothing, {})


def run_job(job: Job, *, compiled: dict[Any, Agent] | None = None, graph: Any = None) -> dict[str, Any]:
    """Train one agent and measure its samples on the way.

    Args:
        job: what to run.
        compiled: agents with a compiled update, by `graph`; a fresh agent's state is loaded into the one that fits, so
            that seeds share the compilation. None: do not compile.
        graph: the key of this job's update in `compiled`.

    Returns:
        The job, "curve" (measures by step), the last measures, "cpu_seconds_per_1000", and for seed 0 "samples" (n, 2)
        and "field" (noise and action, each (FIELD_LINE^2, 2)) of one observation.
    """
    density, steps, batch_size = toy.get_density(job.density), job.config.trainer.steps, job.config.trainer.batch_size
    agent = make_agent(job)
    if compiled is not None:
        if graph in compiled:
            compiled[graph].load_state_dict(agent.state_dict())
        else:
            agent.accelerate()
            compiled[graph] = agent
        agent = compiled[graph]
    data = torch.Generator().manual_seed(10_000 + job.seed)
    stops = sorted({round(share * steps) for share in job.measure_at})
    curve, cpu, timed = [], 0.0, 0
    for step in range(steps + 1):
        if step in stops:
            curve.append({"step": step} | measure(agent, density, job, transport=step > 0))
        if step == steps:
            break
        started = time.process_time()
        agent.update(density.transitions(batch_size, data))
        if step > 0:  # the first update compiles
            cpu, timed = cpu + time.process_time() - started, timed + 1
    result: dict[str, Any] = {
        "part": job.part,
        "variant": job.variant.label,
        "problem": job.problem,
        "density": job.density,
        "value": job.value,
        "bc_weight": getattr(job.config.policy, "bc_weight", None),
        "seed": job.seed,
        "steps": steps,
        "batch_size": batch_size,
        "overrides": job.overrides,
        "evaluations_per_action": agent.policy.head.steps,
        "parameters": sum(parameter.numel() for parameter in agent.policy.parameters()),
        "cpu_seconds_per_1000": 1000 * cpu / max(timed, 1),
        "final": curve[-1],
        "curve": curve,
    }
    return result | (pictures(agent, density) if job.seed == 0 else {})


def make_agent(job: Job) -> Agent:
    """The agent of a job, built by the library; in the second part its critic is the known Q."""
    config = job.config
    agent = build_agent(config, observation_shape=(toy.OBSERVATION_DIM,), action_dim=toy.ACTION_DIM)
    if job.value is None:
        return agent
    return Agent(
        agent.policy,
        KnownQ(toy.get_value(job.value)),
        agent.encoder,
        config=config.agent,
        action_dim=toy.ACTION_DIM,
        total_steps=config.trainer.steps,
        seed=job.seed,
    )


def generate(agent: Agent, angle: Tensor, generator: torch.Generator) -> Tensor:
    """One action per angle, not clipped."""
    return torch.from_numpy(agent.sample(toy.observe(angle).numpy(), generator))


def probe_angles(density: toy.Density, n: int) -> Tensor:
    """Angles (n,) at which samples are measured: PROBE_ANGLES of them in equal parts, or all 0."""
    turns = torch.arange(PROBE_ANGLES if density.conditional else 1) * (2 * math.pi / PROBE_ANGLES)
    return turns.repeat_interleave(n // len(turns))


def measure(agent: Agent, density: toy.Density, job: Job, *, transport: bool) -> dict[str, float | None]:
    """All measures of the agent's samples now; a number that is not finite is None."""
    generator = torch.Generator().manual_seed(20_000 + job.seed)
    angle = probe_angles(density, COUNTED_SAMPLES)
    action, reference = generate(agent, angle, generator), density.sample(angle, generator)
    measures: dict[str, float] = bound_measures(action) | mode_measures(action, angle, density, reference)
    if job.value is not None:
        measures["return"] = float(toy.get_value(job.value)(action.clamp(-1, 1)).mean())
    elif transport:
        angle = probe_angles(density, TRANSPORT_SAMPLES)
        measures["w2"] = transport_distance(generate(agent, angle, generator), angle, density, generator)
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


def transport_distance(action: Tensor, angle: Tensor, density: toy.Density, generator: torch.Generator) -> float:
    """Distance W2 of actions to as many fresh samples of the law, observation by observation."""
    groups = len(angle.unique())
    fresh = density.sample(angle, generator)
    return wasserstein(action.reshape(groups, -1, toy.ACTION_DIM), fresh.reshape(groups, -1, toy.ACTION_DIM))


def reference_measures(density: toy.Density, *, law: str, repeats: int = 10) -> dict[str, float]:
    """The measures of samples that no one learned: of the law itself ("true", the floor) or "uniform" on the box.

    Args:
        density: the law.
        law: "true" or "uniform".
        repeats: sample sets; the numbers are their means, "w2_worst" is the largest distance.
    """
    generator = torch.Generator().manual_seed(30_000)

    def draw(angle: Tensor) -> Tensor:
        if law == "true":
            return density.sample(angle, generator)
        return 2 * torch.rand(len(angle), toy.ACTION_DIM, generator=generator) - 1

    rows = []
    for _ in range(repeats):
        many, few = probe_angles(density, COUNTED_SAMPLES), probe_angles(density, TRANSPORT_SAMPLES)
        rows.append(
            mode_measures(draw(many), many, density, density.sample(many, generator))
            | {"w2": transport_distance(draw(few), few, density, generator), "outside": 0.0}
        )
    means = {name: sum(row[name] for row in rows) / repeats for name in rows[0]}
    return means | {"w2_worst": max(row["w2"] for row in rows)}


@torch.no_grad()
def pictures(agent: Agent, density: toy.Density) -> dict[str, Any]:
    """Samples and the map from noise to action at the angle 0, as lists rounded for the figures."""
    angle = torch.zeros(TRANSPORT_SAMPLES)
    samples = generate(agent, angle, torch.Generator().manual_seed(40_000))
    picture: dict[str, Any] = {"samples": _rounded(samples)}
    head = agent.policy.head
    if head.noise_shape == (toy.ACTION_DIM,):
        line = torch.linspace(-2, 2, FIELD_LINE)
        noise = torch.cartesian_prod(line, line)
        features = agent.encoder(toy.observe(torch.zeros(len(noise))))
        picture["field"] = {"noise": _rounded(noise), "action": _rounded(head.sample(features, noise))}
    return picture


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in points.nan_to_num(99.0, 99.0, -99.0).tolist()]
