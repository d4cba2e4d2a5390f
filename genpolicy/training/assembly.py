"""From a configuration to an agent."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genpolicy.config import RunConfig, compose, schedule_steps
from genpolicy.errors import ConfigError
from genpolicy.networks.encoders import Encoder
from genpolicy.networks.own_encoders import OwnEncoders
from genpolicy.registry import CRITICS, ENCODERS, HEADS, POLICIES
from genpolicy.training.agent import Agent, Crops, ObservationEncoder


def make_agent(
    algorithm: str = "meanflow_ql",
    *,
    observation_shape: Sequence[int],
    action_dim: int,
    overrides: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> Agent:
    """Make an untrained agent for arrays of your own.

    Args:
        algorithm: a recipe's name or the path of one.
        observation_shape: shape of one observation, (O,) or of images (H, W, C); with ``data.frame_stack`` that of one
            frame.
        action_dim: A; actions lie in [-1, 1].
        overrides: as on the command line, ``["head.backbone=mlp", "policy.num_candidates=5"]``. Schedules look at
            ``trainer.steps``, or at the online updates if there are no others.
        seed: of the parameters and of all later randomness.
        device: a torch device.

    Raises:
        ConfigError: for a configuration that cannot be used.

    Example:
        >>> agent = make_agent("meanflow_ql", observation_shape=(28,), action_dim=5, overrides=["preset=smoke"])
        >>> agent.act(np.zeros(28)).shape
        (5,)
    """
    quoted = algorithm.replace("'", "\\'")  # a path may hold any character
    config = compose([f"algorithm='{quoted}'", f"seed={seed}", f"device={device}", *overrides])
    return build_agent(config, observation_shape=observation_shape, action_dim=action_dim)


def build_agent(
    config: RunConfig,
    *,
    observation_shape: Sequence[int],
    action_dim: int,
    normalization: tuple[Tensor, Tensor] | None = None,
) -> Agent:
    """Make the agent that a configuration describes.

    Args:
        config: the whole configuration.
        observation_shape: shape of one frame, (O,) or (H, W, C).
        action_dim: A.
        normalization: mean and standard deviation (O,) of the observations, or None to leave them.

    Raises:
        ConfigError: for parts that do not fit together or to the observations.
    """
    _check_observations(config, tuple(observation_shape), action_dim)
    device = _device(config.device)
    *sides, last = observation_shape
    shape = (*sides, last * config.data.frame_stack)
    with torch.random.fork_rng(devices=[]):  # Initial parameters depend on the seed alone, and no one else's on them.
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed accelerators too
        width = shape[0] if config.encoder is None else _make_encoder(config, shape).feature_dim
        sizes = {"feature_dim": width, "action_dim": config.data.action_chunk * action_dim}
        total_steps = schedule_steps(config)
        head = HEADS.create(config.head, **sizes)
        policy = POLICIES.create(config.policy, head=head, total_steps=total_steps)
        critic = None if config.critic is None else CRITICS.create(config.critic, **sizes)
        encoder: ObservationEncoder | OwnEncoders
        if config.encoder is None:
            statistics = (one.repeat(config.data.frame_stack) for one in normalization or ())
            encoder = ObservationEncoder(width, *statistics)
        else:
            seeing = critic if policy.needs_critic else None
            encoder = OwnEncoders(policy, seeing, lambda: _make_encoder(config, shape), observation_shape=shape)
    return Agent(
        policy,
        critic,
        encoder,
        config=config.agent,
        action_dim=action_dim,
        action_chunk=config.data.action_chunk,
        total_steps=total_steps,
        pretrain_steps=config.trainer.pretrain_steps,
        frame_stack=config.data.frame_stack,
        crops=Crops(config.data.crop_padding, config.data.crop_probability) if config.data.crop_probability else None,
        seed=config.seed,
        device=device,
    )


def _make_encoder(config: RunConfig, shape: tuple[int, ...]) -> Encoder:
    assert config.encoder is not None
    return ENCODERS.create(config.encoder, observation_shape=shape)


def _check_observations(config: RunConfig, shape: tuple[int, ...], action_dim: int) -> None:
    if len(shape) not in (1, 3) or min(shape) < 1 or action_dim < 1:
        raise ConfigError(
            f"observation_shape is {shape} and action_dim {action_dim}; observations must be vectors of at least one "
            "number, (O,), or images, (H, W, C), and actions vectors."
        )
    if len(shape) == 3 and config.encoder is None:
        raise ConfigError(
            f"Observations are images of shape {shape}, but encoder is null. "
            f"Choose one: encoder={', encoder='.join(ENCODERS.names())}."
        )
    if len(shape) == 3 and config.data.normalize_observations:
        raise ConfigError(
            "data.normalize_observations is for vectors; encoders scale images by themselves. Leave it out."
        )
    if len(shape) == 1 and (config.encoder is not None or config.data.crop_probability):
        raise ConfigError(
            f"Observations are vectors of shape {shape}, but encoder and data.crop_probability are for images. "
            "Leave them out (encoder=none data.crop_probability=0)."
        )


def _device(name: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.partition(":")[0]
    if not available.get(kind, False):
        have = ", ".join(one for one, there in available.items() if there)
        raise ConfigError(f"device is '{name}', which this machine does not have; available: {have}.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is '{name}': {error}") from error


def load_agent(run: str | Path, *, checkpoint: str = "best", device: str | None = None) -> Agent:
    """Load a trained agent from a run directory. Nothing in the directory is executed.

    Args:
        run: the run directory.
        checkpoint: "best" by evaluation, "last", or a checkpoint's name.
        device: where to put it; by default where it was trained.

    Raises:
        ConfigError: if the directory is not a run.
        CheckpointError: if it has no usable checkpoint.
    """
    from genpolicy.training.run import restore

    return restore(Path(run), checkpoint=checkpoint, device=device)
