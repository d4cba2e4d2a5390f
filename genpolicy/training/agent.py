"""The agent: parts, optimisers and explicit state behind `update` and `act`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from genpolicy.batch import Batch
from genpolicy.compatibility import Parts, check_parts
from genpolicy.critics.base import Critic
from genpolicy.data.augmentation import draw_crops, random_crop
from genpolicy.errors import CheckpointError, ConfigError, ShapeError
from genpolicy.networks.own_encoders import OwnEncoders
from genpolicy.options import Options, option
from genpolicy.policies.base import Policy, draws_follow_progress
from genpolicy.recording import Replayed
from genpolicy.training.compilation import compile_update, keep_freed_memory, replayed
from genpolicy.training.optimizer import Adam, OptimizerConfig

logger = logging.getLogger(__name__)

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Where acting draws its noise from: one generator for all rows, one for each row, or the agent's own."""
Losses = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""Scalar losses by part, metrics, and the new explicit state."""


@dataclass(frozen=True)
class AgentConfig(Options):
    """How the parts are optimised."""

    policy_optimizer: OptimizerConfig = option(OptimizerConfig(), "optimiser of the policy's parameters")
    critic_optimizer: OptimizerConfig = option(OptimizerConfig(), "optimiser of the critic's parameters")
    target_update: Literal["after_step", "before_step"] = option(
        "after_step", "target networks follow the parameters from after or from before the optimiser's step"
    )
    policy_every: int = option(
        1, "critic updates per update of the policy and of all target networks (delayed policy updates)", minimum=1
    )
    resting_policy: Literal["still", "zero_gradient"] = option(
        "still",
        "between delayed updates the policy rests, or its Adam steps with zero gradient, as an Adam of all parts does",
    )


@dataclass(frozen=True)
class Crops:
    """Random crops of images in training: how far they move an image and how often a batch is augmented."""

    padding: int
    probability: float


class ObservationEncoder(nn.Module):
    """State observations to features: subtract the mean, divide by the standard deviation.

    Args:
        mean: (O,), zeros by default.
        std: (O,), ones by default; a constant component (0) is only centred.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_dim: int, mean: Tensor | None = None, std: Tensor | None = None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(observation_dim) if mean is None else mean.clone())
        self.register_buffer("std", torch.ones(observation_dim) if std is None else torch.where(std > 0, std, 1.0))

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(O,)."""
        return tuple(self.mean.shape)

    def forward(self, observation: Tensor) -> Tensor:
        """Return features (\\*batch, O)."""
        return (observation - self.mean) / self.std


class Agent:
    """A policy, an optional critic, an optimiser for each, and the state that changes in training.

    One update evaluates both losses at the parameters from before it, differentiates each with respect to its own
    part only (so the critic is frozen in the policy's loss and the other way round), takes both optimiser steps, and
    then moves the targets towards the *updated* networks, as HiccupRL/MeanFlowQL does. With
    `target_update="before_step"` they follow the networks from before the step, as in seohongpark/fql.

    Observations that are vectors are encoded before the update. Images are augmented and encoded within it, by encoders
    that are part of policy and critic (`OwnEncoders`), so each loss trains the encoders of its own part.

    With `policy_every` = d only every d-th update is such a full one; the others train the critic alone and leave all
    targets (TD3, arXiv:1802.09477).

    Made by `genpolicy.make_agent`.

    Args:
        policy: with its head.
        critic: or None for a policy that needs none.
        encoder: observations to features; `OwnEncoders` for images.
        config: optimisers.
        action_dim: A, of one action of the environment.
        action_chunk: h, the actions of one decision; head and critic see them as one action of h A numbers.
        total_steps: planned number of updates, the horizon of schedules.
        pretrain_steps: the first so many updates fit the head only.
        frame_stack: how many of an episode's latest observations are seen together as one.
        crops: augmentation of images; None for none.
        seed: of the generators for training noise, validation and acting.
        device: where everything lives.
    """

    _adam = Adam

    def __init__(
        self,
        policy: Policy,
        critic: Critic | None,
        encoder: ObservationEncoder | OwnEncoders,
        *,
        config: AgentConfig,
        action_dim: int,
        action_chunk: int = 1,
        total_steps: int,
        pretrain_steps: int = 0,
        frame_stack: int = 1,
        crops: Crops | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        critic_class, critic_config = (None, None) if critic is None else (type(critic), critic.config)
        head = policy.head
        check_parts(Parts(type(head), head.config, critic_class, critic_config, type(policy), policy.config))
        self.device = torch.device(device)
        self.policy = policy.to(self.device)
        self.critic = critic.to(self.device) if critic is not None and policy.needs_critic else None
        self.encoder = encoder.to(self.device)
        self.images = isinstance(encoder, OwnEncoders)
        self.frame_stack = frame_stack
        self.crops = crops
        self.action_dim = action_dim
        self.action_chunk = action_chunk
        self.pretrain_steps = pretrain_steps
        adam = self._adam
        self.policy_optimizer = adam(self.policy, config.policy_optimizer, total_steps=total_steps)
        self.critic_optimizer = (
            adam(self.critic, config.critic_optimizer, total_steps=total_steps) if self.critic is not None else None
        )
        self.state: dict[str, Tensor] = {"step": torch.tensor(0)} | self.policy.initial_state()
        self.state = {name: value.to(self.device) for name, value in self.state.items()}
        self.step = 0
        self.generators = {
            name: torch.Generator(self.device).manual_seed(_derive_seed(seed, name))
            for name in ("training", "validation", "acting")
        }
        self.config = config
        self._update = self._full_update
        self._pretrain = self._pretrain_update
        self._delayed = self._critic_update
        self._valued = self._critic_and_target_update
        self._draw_for_update: Callable[[int], dict[str, Any]] = lambda n: self._draw(n, self.generators["training"])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation: (O,), or (H, W, C) of images; the last counts all frames of a stack."""
        return self.encoder.observation_shape

    @property
    def observation_dim(self) -> int:
        """Width of one observation that is a vector."""
        return self.observation_shape[0]

    @property
    def discount(self) -> float:
        """Discount of a batch that carries none."""
        return self.critic.config.discount if self.critic is not None else 1.0

    # Learning

    def update(self, batch: Mapping[str, Tensor], *, with_policy: bool = True) -> dict[str, Tensor]:
        """Do one update.

        Args:
            batch: "observations" (B, O), "actions" (B, A), "next_observations" (B, O), "rewards" (B,), "masks" (B,);
                optionally "discounts" (B,), discount^n of n-step returns, and "next_actions" (B, A), the dataset's
                actions at the next observations. With action chunks, actions are (B, h, A) and rewards sum h steps.
                Tensors or arrays; images are (B, H, W, C), from 0 to 255, best as uint8.
            with_policy: false trains the critic alone; its target follows (several critic updates per policy update,
                as in RLPD, arXiv:2302.02948). Without a critic nothing is learned then.

        Returns:
            Detached 0-d tensors: "critic/...", "policy/...". Reading them waits for the device.

        Raises:
            ShapeError: for a missing key or an array of another shape, naming both shapes.
        """
        encoded = self.encode(batch)
        return self.update_with_draws(encoded, self.draw(len(batch["observations"])), with_policy=with_policy)

    def draw(self, n: int) -> dict[str, Any]:
        """Draw every random number of one update on n rows from the training generator."""
        return self._draw_for_update(n)

    def update_with_draws(self, batch: Batch, draws: dict[str, Any], *, with_policy: bool = True) -> dict[str, Tensor]:
        """Do one update whose randomness is given: a deterministic function of parameters, state and arguments."""
        if self.step < self.pretrain_steps:
            update = self._pretrain
        elif not with_policy:
            update = self._valued
        elif (self.step + 1) % self.config.policy_every:
            update = self._delayed
        else:
            update = self._update
        metrics = update(batch, draws)
        self.step += 1
        return metrics

    def losses(self, batch: Batch, draws: dict[str, Any], state: Mapping[str, Tensor] | None = None) -> Losses:
        """Evaluate both losses at the current parameters.

        Args:
            batch: from `encode`.
            draws: from `draw`.
            state: the explicit state in place of the agent's own.

        Returns:
            The scalar losses by part ("policy", "critic"), the metrics, and the policy's new explicit state.
        """
        for_policy, for_critic = self._see(batch, draws)
        losses, metrics, state = self._policy_losses(for_policy, draws, self.state if state is None else state)
        of_critic, critic_metrics, _ = self._critic_losses(for_critic, draws)
        return losses | of_critic, metrics | critic_metrics, state

    def gradients(self, losses: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Differentiate each loss with respect to its own part; a parameter that takes no part gets zeros."""
        optimizers = self._optimizers()
        return {
            part: torch.autograd.grad(loss, optimizers[part].parameters, allow_unused=True, materialize_grads=True)
            for part, loss in losses.items()
        }

    @torch.no_grad()
    def evaluate_losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics of a batch without learning from it (its draws have a generator of their own)."""
        encoded = self.encode(batch)
        return self.losses(encoded, self._draw(len(encoded.features), self.generators["validation"]))[1]

    def encode(self, batch: Mapping[str, Any]) -> Batch:
        """Check a mapping of arrays and turn it into a `Batch` on the device.

        Images stay images, in place of features: their encoders learn, so the losses encode them.
        """
        observations = self._tensor(batch, "observations", (-1, *self.observation_shape))
        n = len(observations)
        rewards = self._tensor(batch, "rewards", (n,))
        discounts = (
            self._tensor(batch, "discounts", (n,))
            if "discounts" in batch
            else torch.full_like(rewards, self.discount**self.action_chunk)
        )
        next_observations = self._tensor(batch, "next_observations", (n, *self.observation_shape))
        return Batch(
            features=observations if self.images else self.encoder(observations),
            actions=self._actions(batch, "actions", n),
            rewards=rewards,
            next_features=next_observations if self.images else self.encoder(next_observations),
            masks=self._tensor(batch, "masks", (n,)),
            discounts=discounts,
            next_actions=self._actions(batch, "next_actions", n) if "next_actions" in batch else None,
        )

    def accelerate(self, *, compiled: bool = True) -> None:
        """Make updates fast: compiled as one region, and on a CUDA device replayed as one graph.

        The numbers stay the same up to the rounding of another order of operations. What cannot be compiled runs
        eagerly, with a warning; on a CUDA device it is replayed all the same.

        Args:
            compiled: false leaves the compiler out, which takes about a minute before the first update.
        """
        fast = compile_update if compiled else lambda update: update
        self._delayed, self._valued = fast(self._critic_update), fast(self._critic_and_target_update)
        keep_freed_memory()
        if self.device.type != "cuda":
            self._update = fast(self._full_update)
            return
        whole = fast(self._full_update)
        if self.critic is not None and not self.images:
            whole = self._in_two_streams(*map(fast, (self._policy_gradients, self._critic_gradients, self._finish)))
        self._update, self._delayed, self._valued = map(replayed, (whole, self._delayed, self._valued))
        self.record_draws()

    def record_draws(self) -> None:
        """On a CUDA device, let the draws of an update be made by one launch, if it is always the same work."""
        if self.device.type == "cuda" and not draws_follow_progress(self.policy.head):
            generator = self.generators["training"]
            self._draw_for_update = Replayed(lambda n: self._draw(n, generator), [generator])

    def _in_two_streams(self, for_policy: Callable, for_critic: Callable, finish: Callable) -> Callable:
        """The full update with both losses at once: each alone leaves most of a GPU idle."""
        stream = torch.cuda.Stream(self.device)

        def update(batch: Batch, draws: dict[str, Any]) -> dict[str, Tensor]:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                of_critic, critic_metrics = for_critic(batch, draws)
            of_policy, metrics, state = for_policy(batch, draws)
            torch.cuda.current_stream().wait_stream(stream)
            return metrics | critic_metrics | finish(of_policy | of_critic, state)

        return update

    # Acting

    @torch.no_grad()
    def act(
        self, observation: np.ndarray, generator: Generators = None, *, temperature: float | None = None
    ) -> np.ndarray:
        """Choose actions.

        Args:
            observation: (O,) or (n, O); images (H, W, C) or (n, H, W, C).
            generator: the source of noise: one for all rows, or one per row (each row's action then does not depend
                on the other rows); by default the agent's own.
            temperature: factor on the noise in place of `policy.temperature`, for exploring.

        Returns:
            (A,) or (n, A) float32, within [-1, 1]; with action chunks (h, A) or (n, h, A), the next h actions in order.

        Raises:
            ShapeError: if the observation has another width or more than two axes.
        """
        features, single = self._features(observation)
        noise = self._acting_noise(len(features), generator)
        return self._to_numpy(self.policy.act(features, noise, self.critic, temperature=temperature), single)

    @torch.no_grad()
    def sample(self, observation: np.ndarray, generator: torch.Generator | None = None) -> np.ndarray:
        """Draw from the law that the head has learned: one action per observation, not ranked and not clipped.

        Args:
            observation: as in `act`.
            generator: the source of noise; by default the agent's own.

        Returns:
            (A,) or (n, A) float32; with action chunks (h, A) or (n, h, A).

        Raises:
            ShapeError: as `act` does.
        """
        features, single = self._features(observation)
        noise = self.policy.head.noise(len(features), generator or self.generators["acting"]).to(self.device)
        return self._to_numpy(self.policy.head.sample(features, noise), single)

    @torch.no_grad()
    def q(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return what the critic thinks of actions.

        Args:
            observation: (n, O); images (n, H, W, C).
            action: (n, A), one for each observation; with action chunks (n, h, A).

        Returns:
            (E, n), the value by each member of the critic's ensemble.

        Raises:
            ConfigError: if the agent learns no critic.
            ShapeError: as `act` does, and for actions of another shape, naming both.
        """
        if self.critic is None:
            raise ConfigError(
                f"This agent has no critic: {type(self.policy).__name__} learns without one. "
                "Train with another policy, as in policy=q_gradient, to have values."
            )
        features, _ = self._features(observation)
        return self.critic.q(features, self._actions({"action": action}, "action", len(features))).cpu().numpy()

    def export(self, path: str | Path, format: Literal["onnx", "torch_export", "aot_inductor"] | None = None) -> Path:
        """Write the policy to a file that acts without this library.

        The file is a function of `observation` (n, O) and `noise` (n, N, ...) that returns `action`, as `act` does:
        normalisation, temperature, ranking of candidates and clipping included. What to draw the noise from, and all
        shapes, it says itself (metadata ``genpolicy.json``); zero noise is the deterministic policy of a Gaussian head.

        Args:
            path: its directory is made if it is missing.
            format: "onnx" (for onnxruntime; ends in .onnx), "torch_export" (for `torch.export.load`) or
                "aot_inductor" (compiled for this machine, for `torch._inductor.aoti_load_package`; both .pt2). By
                default that of the file's suffix: .onnx, or torch_export for .pt2.

        Raises:
            ConfigError: for another suffix or format.
            GenpolicyError: if a package for ONNX is missing.
        """
        from genpolicy.training.export import export

        return export(self, path, format)

    def _features(self, observation: np.ndarray) -> tuple[Tensor, bool]:
        """The features of one or many observations, (n, F), and whether it was one."""
        array = np.asarray(observation)
        array = array.astype(np.uint8 if self.images and array.dtype == np.uint8 else np.float32, copy=False)
        shape = self.observation_shape
        single = array.ndim == len(shape)
        rows = array[None] if single else array
        if rows.ndim != len(shape) + 1 or rows.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(
                f"The observation has shape {array.shape}; this agent takes ({wanted}{',' * (len(shape) == 1)}) "
                f"or (n, {wanted}). Was it trained on another task?"
            )
        return self.encoder(torch.from_numpy(rows).to(self.device)), single

    def _to_numpy(self, actions: Tensor, single: bool) -> np.ndarray:
        array = actions.cpu().numpy()
        if self.action_chunk > 1:
            array = array.reshape(-1, self.action_chunk, self.action_dim)
        return array[0] if single else array

    def _acting_noise(self, n: int, generator: Generators) -> Tensor:
        if generator is None:
            generator = self.generators["acting"]
        if isinstance(generator, torch.Generator):
            return self.policy.noise(n, generator).to(self.device)
        if len(generator) != n:
            raise ShapeError(
                f"There are {len(generator)} generators for {n} observations; give one for each, or one for all."
            )
        return torch.cat([self.policy.noise(1, one) for one in generator], dim=1).to(self.device)

    # State

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that exact continuation needs: parameters, moments, explicit state, generators."""
        return self._tensors() | {
            f"generator.{name}": generator.get_state() for name, generator in self.generators.items()
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: naming tensors that are missing, unexpected or of another shape; nothing is changed then.
        """
        own = self.state_dict()
        missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        wrong = [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own.keys() & tensors.keys()
            if own[name].shape != tensors[name].shape and not name.startswith("generator.")
        ]
        if missing or unexpected or wrong:
            raise CheckpointError(
                "The checkpoint does not fit this agent. "
                f"Missing: {_abbreviate(missing)}. Unexpected: {_abbreviate(unexpected)}. "
                f"Wrong shape: {_abbreviate(sorted(wrong))}. Use the configuration that it was trained with."
            )
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])
        for name, generator in self.generators.items():
            state = tensors[f"generator.{name}"].cpu()
            if state.shape == generator.get_state().shape:
                generator.set_state(state)
            else:
                logger.warning("The %s noise was drawn on another kind of device; it starts anew from the seed.", name)
        self.step = int(self.state["step"])

    # The update itself: tensors in, tensors out, nothing read back by the host

    def _full_update(self, batch: Batch, draws: dict[str, Any]) -> dict[str, Tensor]:
        losses, metrics, state = self.losses(batch, draws)
        return metrics | self._finish(self.gradients(losses), state)

    def _finish(self, gradients: Mapping[str, tuple[Tensor, ...]], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the steps of a full update and move the targets."""
        if self.config.target_update == "before_step":
            self._update_targets()
        metrics = self._step(gradients, state)
        if self.config.target_update == "after_step":
            self._update_targets()
        return metrics

    def _policy_gradients(self, batch: Batch, draws: dict[str, Any]) -> tuple[Any, ...]:
        losses, metrics, state = self._policy_losses(batch, draws, self.state)
        return self.gradients(losses), metrics, state

    def _critic_gradients(self, batch: Batch, draws: dict[str, Any]) -> tuple[Any, ...]:
        losses, metrics, _ = self._critic_losses(batch, draws)
        return self.gradients(losses), metrics

    def _critic_update(self, batch: Batch, draws: dict[str, Any]) -> dict[str, Tensor]:
        """The update between two of a delayed policy."""
        losses, metrics, _ = self._critic_losses(self._see(batch, draws)[1], draws)
        gradients = self.gradients(losses)
        if self.config.resting_policy == "zero_gradient":
            gradients["policy"] = tuple(torch.zeros_like(one) for one in self.policy_optimizer.parameters)
        return metrics | self._step(gradients, {})

    def _critic_and_target_update(self, batch: Batch, draws: dict[str, Any]) -> dict[str, Tensor]:
        """The update of the critic and its target, with the policy as it is."""
        if self.critic is None:
            return self._step({}, {})
        losses, metrics, _ = self._critic_losses(self._see(batch, draws)[1], draws)
        gradients = self.gradients(losses)
        if self.config.target_update == "before_step":
            self.critic.update_targets()
        metrics |= self._step(gradients, {})
        if self.config.target_update == "after_step":
            self.critic.update_targets()
        return metrics

    def _pretrain_update(self, batch: Batch, draws: dict[str, Any]) -> dict[str, Tensor]:
        losses, metrics, _ = self._pretrain_losses(self._see(batch, draws)[0], draws)
        return metrics | self._step(self.gradients(losses), {})

    def _policy_losses(self, batch: Batch, draws: dict[str, Any], state: Mapping[str, Tensor]) -> Losses:
        """What `losses` returns, for the policy alone, of the batch as it sees it."""
        fit = self.policy.loss(batch, self.critic, draws["policy"], state)
        return {"policy": fit.loss}, {f"policy/{name}": value for name, value in fit.metrics.items()}, fit.state

    def _critic_losses(self, batch: Batch, draws: dict[str, Any], _: Any = None) -> Losses:
        """What `losses` returns, for the critic alone, of the batch as it sees it."""
        if self.critic is None:
            return {}, {}, {}
        value = self.critic.loss(batch, self.policy, draws["critic"])
        return {"critic": value.loss}, {f"critic/{name}": metric for name, metric in value.metrics.items()}, {}

    def _pretrain_losses(self, batch: Batch, draws: dict[str, Any], _: Any = None) -> Losses:
        """What `losses` returns, for pretraining the policy, of the batch as it sees it."""
        fit = self.policy.pretrain_loss(batch, draws["policy"])
        return {"policy": fit.loss}, {f"policy/{name}": value for name, value in fit.metrics.items()}, {}

    def _see(self, batch: Batch, draws: dict[str, Any]) -> tuple[Batch, Batch]:
        """The batch as the policy's and as the critic's loss see it: images augmented as drawn, and encoded."""
        if not isinstance(self.encoder, OwnEncoders):
            return batch, batch
        images, next_images = batch.features, batch.next_features
        if self.crops is not None:
            images, next_images = (
                random_crop(one, draws["crops"], padding=self.crops.padding) for one in (images, next_images)
            )
        with torch.no_grad():  # Stop-gradient: the next observation enters targets only.
            next_features = self.encoder(next_images)
        for_policy, for_critic = (
            batch._replace(features=features, next_features=next_features)
            for features in self.encoder.for_losses(images)
        )
        return for_policy, for_critic

    def _step(self, gradients: Mapping[str, tuple[Tensor, ...]], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the optimisers' steps and replace the explicit state."""
        optimizers, metrics = self._optimizers(), {}
        for part, of_part in gradients.items():
            step_metrics = optimizers[part].step(of_part)
            metrics |= {f"{part}/{name}": value for name, value in step_metrics.items()}
        with torch.no_grad():
            for name, value in state.items():
                self.state[name].copy_(value)
            self.state["step"].add_(1)
        return metrics

    def _update_targets(self) -> None:
        self.policy.update_targets()
        if self.critic is not None:
            self.critic.update_targets()

    def _optimizers(self) -> dict[str, Adam]:
        optimizers = {"policy": self.policy_optimizer}
        return optimizers if self.critic_optimizer is None else optimizers | {"critic": self.critic_optimizer}

    def _draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        progress = min(self.step / max(self.policy.total_steps, 1), 1.0)
        draws = {"policy": self.policy.draw(n, generator, progress=progress)}
        if self.critic is not None:
            draws["critic"] = self.critic.draw(n, self.policy, generator)
        if self.crops is not None:
            draws["crops"] = draw_crops(n, generator, padding=self.crops.padding, probability=self.crops.probability)
        return draws

    def _tensors(self) -> dict[str, Tensor]:
        modules = {"policy": self.policy, "critic": self.critic, "encoder": self.encoder}
        tensors = {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            if module is not None
            for name, tensor in module.state_dict().items()
        }
        for part, optimizer in self._optimizers().items():
            tensors |= {f"optimizer.{part}.{name}": tensor for name, tensor in optimizer.state().items()}
        return tensors | {f"state.{name}": tensor for name, tensor in self.state.items()}

    def _actions(self, batch: Mapping[str, Any], key: str, n: int) -> Tensor:
        if self.action_chunk == 1:
            return self._tensor(batch, key, (n, self.action_dim))
        return self._tensor(batch, key, (n, self.action_chunk, self.action_dim)).flatten(1)

    def _tensor(self, batch: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> Tensor:
        if key not in batch:
            raise ShapeError(
                f"The batch has no '{key}'; it holds {', '.join(sorted(batch))}. "
                "It must hold observations, actions, next_observations, rewards and masks."
            )
        kept = self.images and key.endswith("observations")  # images travel as bytes
        dtype = None if kept else torch.get_default_dtype()
        tensor = torch.as_tensor(batch[key], dtype=dtype, device=self.device)
        if tensor.ndim != len(shape) or any(
            want not in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        ):
            wanted = ", ".join("n" if size == -1 else str(size) for size in shape)
            raise ShapeError(
                f"batch['{key}'] has shape {tuple(tensor.shape)}; expected ({wanted}{',' * (len(shape) == 1)})."
            )
        return tensor


def _derive_seed(seed: int, name: str) -> int:
    """A seed of its own for each generator, so that none repeats another's numbers."""
    entropy = [seed, *name.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _abbreviate(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
