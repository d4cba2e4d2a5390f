"""Images as observations: encoders within the update, crops, stacks of frames, and whole runs."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genpolicy import Agent, load_agent, make_agent
from genpolicy.config import compose, from_yaml, to_yaml
from genpolicy.data import load_dataset
from genpolicy.data.generation import generate
from genpolicy.data.tasks import get_task
from genpolicy.envs.rendering import select_renderer
from genpolicy.errors import CheckpointError, ConfigError, GenpolicyError, ShapeError
from genpolicy.networks.ensemble import EnsembleMLP
from genpolicy.training.run import resume, stored_config, train

FRAME, FRAMES, ACTIONS, ROWS = (8, 8, 3), 2, 2, 4
TASK = "visual-cube-single-play-singletask-task1-v0"
TINY = ("encoder=impala_small", "encoder.stack_sizes=[2]", "encoder.hidden_dims=[6]", f"data.frame_stack={FRAMES}")
CROPS = ("data.crop_probability=1", "data.crop_padding=2")


def image_agent(algorithm: str = "meanflow_ql", *overrides: str, seed: int = 0) -> Agent:
    settings = ["preset=smoke", "critic.ema_rate=0.25", "agent.policy_optimizer.schedule=constant"]
    if compose([f"algorithm={algorithm}"]).critic is None:
        del settings[1]
    return make_agent(
        algorithm,
        observation_shape=FRAME,
        action_dim=ACTIONS,
        overrides=[*settings, *TINY, *overrides],
        seed=seed,
    )


def image_batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, *FRAME[:2], FRAMES * FRAME[2])
    return {
        "observations": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        "next_observations": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        "actions": 2 * torch.rand(ROWS, ACTIONS, generator=generator) - 1,
        "next_actions": 2 * torch.rand(ROWS, ACTIONS, generator=generator) - 1,
        "rewards": torch.randn(ROWS, generator=generator),
        "masks": torch.tensor([1.0, 0.0, 1.0, 1.0]),
    }


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


# Learning


@pytest.mark.parametrize("algorithm", ["meanflow_ql", "fql", "iql", "ifql", "rebrac", "sac", "bc"])
def test_every_encoder_learns_with_its_network(algorithm: str) -> None:
    agent = image_agent(algorithm, *CROPS)
    before = copies(agent.state_dict())
    for step in range(4):  # a last layer may start at 0, and ReBRAC's actor and its target move every second time
        metrics = agent.update(image_batch(step))
    assert all(torch.isfinite(value) for value in metrics.values())
    after = agent.state_dict()
    encoders = [name for name in after if name.split(".")[0] in ("policy", "critic") and ".encoder." in name]
    networks = {name.split(".encoder.")[0] for name in encoders}
    assert len(networks) == {"bc": 1, "meanflow_ql": 3, "sac": 3}.get(algorithm, 4)
    weights = [name for name in encoders if name.endswith("weight")]
    assert all(not torch.equal(before[name], after[name]) for name in weights)


def test_each_loss_trains_the_encoders_of_its_own_part() -> None:
    """The gradients are those of losses in which each network is given its own encoder's features directly."""
    agent = image_agent("fql")
    batch, draws = agent.encode(image_batch()), agent.draw(ROWS)
    assert batch.features.dtype == torch.uint8
    losses, _, _ = agent.losses(batch, draws)
    gradients = agent.gradients(losses)
    names = {part: agent._optimizers()[part].names for part in ("policy", "critic")}
    assert {name.split(".encoder")[0] for name in names["policy"] if "encoder" in name} == {
        "head.flow.backbone",
        "head.student",
    }
    assert {name.split(".encoder")[0] for name in names["critic"] if "encoder" in name} == {"online"}

    online = agent.critic.online
    with torch.no_grad():
        features = agent.encoder(image_batch()["next_observations"])
        next_actions = agent.policy.next_actions(features, draws["critic"].next_noise)[0]
        own = agent.critic.target.encoder(batch.next_features)
        values = EnsembleMLP.forward(agent.critic.target, torch.cat([own, next_actions], dim=-1)).squeeze(-1)
        target = batch.rewards + 0.99 * batch.masks * values.mean(dim=0)
    own = online.encoder(batch.features)
    q = EnsembleMLP.forward(online, torch.cat([own, batch.actions], dim=-1)).squeeze(-1)
    loss = (q - target).square().mean()
    torch.testing.assert_close(losses["critic"], loss)
    expected = torch.autograd.grad(loss, [one for one in online.parameters() if one.requires_grad])
    for found, wanted in zip(gradients["critic"], expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_target_encoders_follow_like_their_networks() -> None:
    agent = image_agent(
        "rebrac", "policy.target_ema_rate=0.5", "agent.policy_every=1", "agent.target_update=after_step"
    )
    pairs = {
        0.25: (agent.critic.target.encoder, agent.critic.online.encoder),
        0.5: (agent.policy.target_head.backbone.encoder, agent.policy.head.backbone.encoder),
    }
    for target, online in pairs.values():
        assert all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True))
    old = {rate: [one.clone() for one in target.parameters()] for rate, (target, _) in pairs.items()}
    agent.update(image_batch())
    for rate, (target, online) in pairs.items():
        for before, after, new in zip(old[rate], target.parameters(), online.parameters(), strict=True):
            assert not torch.equal(before, new)
            torch.testing.assert_close(after, before.lerp(new, rate))


def test_next_observations_enter_without_gradient() -> None:
    agent = image_agent()
    for encoded in agent._see(agent.encode(image_batch()), agent.draw(ROWS)):
        assert encoded.features.requires_grad and not encoded.next_features.requires_grad
        assert encoded.features.shape == (ROWS, 3 * 6)


def test_updates_are_determined_by_the_draws() -> None:
    agent, twin = image_agent("fql", *CROPS), image_agent("fql", *CROPS)
    for step in range(2):
        draws = agent.draw(ROWS)
        assert draws["crops"].shape == (ROWS, 2)
        torch.manual_seed(step)  # of no consequence
        found = agent.update_with_draws(agent.encode(image_batch(step)), draws)
        expected = twin.update_with_draws(twin.encode(image_batch(step)), draws)
        assert all(torch.equal(found[name], expected[name]) for name in found)
    draws = agent.draw(ROWS)
    losses = [agent.losses(agent.encode(image_batch()), draws | {"crops": crops})[0] for crops in _crops_of(0, 2)]
    assert losses[0]["policy"] != losses[1]["policy"] and losses[0]["critic"] != losses[1]["critic"]
    # Corner (2, 2) of an image padded by 2 is the image itself.
    plain = image_agent("fql")
    plain.load_state_dict(agent.state_dict())
    torch.testing.assert_close(plain.losses(plain.encode(image_batch()), draws)[0], losses[1])


def _crops_of(*corners: int) -> list[Tensor]:
    return [torch.full((ROWS, 2), corner) for corner in corners]


def test_pretraining_and_delayed_updates_see_images_too() -> None:
    agent = image_agent("rebrac", "agent.resting_policy=still", "trainer.pretrain_steps=1", *CROPS)
    assert not any(name.startswith("critic/") for name in agent.update(image_batch()))
    agent.update(image_batch(1))
    before = copies(agent.policy.state_dict())
    assert "critic/loss" in agent.update(image_batch(2))
    assert all(torch.equal(before[name], value) for name, value in agent.policy.state_dict().items())
    assert "critic/loss" in agent.update(image_batch(3), with_policy=False)
    assert "critic/loss" in agent.evaluate_losses(image_batch(4))


def test_state_goes_on_exactly() -> None:
    agent, other = image_agent("fql", *CROPS), image_agent("fql", *CROPS, seed=1)
    agent.update(image_batch())
    other.load_state_dict(copies(agent.state_dict()))
    for step in range(2):
        found, expected = other.update(image_batch(step)), agent.update(image_batch(step))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    observation = image_batch()["observations"][0].numpy()
    assert np.array_equal(agent.act(observation), other.act(observation))
    with pytest.raises(CheckpointError, match=r"Missing: critic\.online\.encoder"):
        make = make_agent("fql", observation_shape=(6,), action_dim=ACTIONS, overrides=["preset=smoke"])
        agent.load_state_dict(make.state_dict())


def test_the_encoder_leaves_no_trace_in_agents_of_vectors() -> None:
    agent = make_agent("fql", observation_shape=(6,), action_dim=ACTIONS, overrides=["preset=smoke"])
    assert not any("encoder" in name for name in agent.state_dict() if not name.startswith("encoder."))
    assert "crops" not in agent.draw(ROWS)
    assert not any(module._forward_pre_hooks for module in agent.policy.modules())


@pytest.mark.slow
def test_compiled_update_equals_the_eager_one(caplog: pytest.LogCaptureFixture) -> None:
    """Half a minute. Compiled kernels round differently, and Adam turns that into up to a learning rate."""
    agent, twin = image_agent("meanflow_ql", *CROPS), image_agent("meanflow_ql", *CROPS)
    agent.accelerate()
    for step in range(2):
        draws = twin.draw(ROWS)
        found = agent.update_with_draws(agent.encode(image_batch(step)), draws)
        expected = twin.update_with_draws(twin.encode(image_batch(step)), draws)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert not [record for record in caplog.records if record.name.startswith("genpolicy")]  # no fall back


# Acting


def test_acting_takes_images_of_all_frames() -> None:
    agent = image_agent("fql")
    assert agent.observation_shape == (8, 8, 6) and agent.frame_stack == FRAMES
    observations = image_batch()["observations"].numpy()
    generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
    together = agent.act(observations, generators)
    assert together.shape == (ROWS, ACTIONS)
    generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
    for row in range(ROWS):
        alone = agent.act(observations[row], generators[row])
        np.testing.assert_allclose(alone, together[row], atol=1e-6)
    with pytest.raises(ShapeError, match=r"shape \(8, 8, 3\); this agent takes \(8, 8, 6\) or \(n, 8, 8, 6\)"):
        agent.act(observations[0, ..., :3])


# Configuration


def test_tasks_with_pixels_take_the_published_treatment_of_images() -> None:
    config = compose([f"task={TASK}", "algorithm=fql"])
    assert type(config.encoder).__name__ == "ImpalaSmallConfig"
    assert (config.data.frame_stack, config.data.crop_probability, config.data.crop_padding) == (3, 0.5, 3)
    assert from_yaml(to_yaml(config)) == config
    chosen = compose([f"task={TASK}", "encoder.blocks=2", "encoder=impala_large", "data.frame_stack=1"])
    assert (chosen.encoder.blocks, chosen.encoder.stack_sizes) == (2, (64, 128, 128))
    assert (chosen.data.frame_stack, chosen.data.crop_probability) == (1, 0.5)
    vectors = compose(["task=cube-single-play-singletask-v0"])
    assert vectors.encoder is None and vectors.data.frame_stack == 1 and not vectors.data.crop_probability


@pytest.mark.parametrize(
    ("shape", "overrides", "says"),
    [
        (FRAME, [], "images of shape \\(8, 8, 3\\), but encoder is null. Choose one: encoder=impala_large"),
        (FRAME, [*TINY, "data.normalize_observations=true"], "normalize_observations is for vectors"),
        ((6,), ["encoder=impala_small"], "vectors of shape \\(6,\\), but encoder"),
        ((6,), ["data.crop_probability=0.5"], "data.crop_probability are for images"),
        ((6, 6), [], "vectors of at least one number, \\(O,\\), or images"),
        (FRAME, ["encoder=impala_smal"], "Unknown encoder 'impala_smal'.*impala_small"),
        (FRAME, [*TINY, "data.frame_stack=0"], "frame_stack is 0; it must be at least 1"),
        (FRAME, [*TINY, "data.crop_probability=2"], "it must be at most 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(shape: tuple[int, ...], overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_agent("fql", observation_shape=shape, action_dim=2, overrides=["preset=smoke", *overrides])


def test_vectors_can_be_stacked() -> None:
    agent = make_agent("fql", observation_shape=(3,), action_dim=2, overrides=["preset=smoke", "data.frame_stack=2"])
    assert agent.observation_shape == (6,) and agent.act(np.zeros(6)).shape == (2,)


# The real thing


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered steps of the cube task; about 20 seconds without a graphics card."""
    try:
        select_renderer()
    except GenpolicyError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cube")
    for name in ("visual-cube-single-play-v0", "cube-single-play-v0"):
        generate(name, directory=folder, episodes=2, validation_episodes=1, episode_steps=8)
    return folder


@pytest.mark.slow
def test_generated_images_show_the_generated_states(cube: Path) -> None:
    seen, stored = (np.load(cube / f"{prefix}cube-single-play-v0.npz") for prefix in ("visual-", ""))
    assert seen["observations"].shape == (16, 64, 64, 3) and seen["observations"].dtype == np.uint8
    for key in ("actions", "qpos", "qvel", "terminals"):
        assert np.array_equal(seen[key], stored[key])
    changes = np.abs(np.diff(seen["observations"][:8].astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert 0 < changes[-1] < 20  # the arm moves a little from frame to frame
    images, states = (load_dataset(get_task(name), cube)[0] for name in (TASK, TASK.removeprefix("visual-")))
    assert images.observations.dtype == torch.uint8
    assert torch.equal(images.rewards, states.rewards) and torch.equal(images.masks, states.masks)


@pytest.mark.slow
def test_a_run_on_pixels_from_end_to_end(cube: Path, tmp_path: Path) -> None:
    """Generated data, training, an evaluation of 200 rendered steps, resuming; a minute, most of it rendering."""
    settings = [
        f"task={TASK}",
        "algorithm=fql",
        "preset=smoke",
        f"data.dir={cube}",
        f"run_dir={tmp_path / 'run'}",
        "trainer.batch_size=4",
        "trainer.log_every=2",
        "trainer.eval_every=4",
        "trainer.eval_episodes=1",
        "trainer.checkpoint_every=2",
    ]
    run, result = train(compose([*settings, "trainer.steps=4"]))
    assert (result.state, result.step) == ("completed", 4)
    assert result.last_eval is not None and result.last_eval["evaluation/length"] > 0
    assert resume(stored_config(run.path))[1].updates == 0
    agent = load_agent(run.path, checkpoint="last")
    assert (agent.observation_shape, agent.frame_stack) == ((64, 64, 9), 3)
    assert agent.act(np.zeros((64, 64, 9), np.uint8)).shape == (5,)


def test_without_a_renderer_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nImportError: no libEGL")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(GenpolicyError, match=r"egl \(ImportError: no libEGL\).*libegl1 or libosmesa6.*MUJOCO_GL"):
        generate("visual-cube-single-play-v0", directory=tmp_path / "data", episodes=1)
    assert not (tmp_path / "data").exists()
