"""Exported policies: files that act as the agent does, without the library."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genpolicy import Agent
from genpolicy.config import compose
from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.training.assembly import build_agent
from genpolicy.training.export import METADATA
from tests.helpers import randomise, small_agent

# The exporters reorder sums of float32.
TOLERANCE = 2e-6
ALGORITHMS = {
    "meanflow_ql": (),
    "fql": (),
    "diffusion_ql": (),
    "iql": ("policy.acting=mean", "policy.temperature=0.5"),
    "sac": (),
    "qc_fql": (),
    "bc": ("head=mixture", "head.backbone.hidden_dims=[8]"),
}


def agent_with_some_training(algorithm: str, *overrides: str) -> Agent:
    agent = small_agent(algorithm, *overrides)
    for part in (agent.policy, agent.critic):
        if part is not None:
            randomise(part)
    return agent


def questions(agent: Agent, n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, noise (n, N, ...), and what the agent does."""
    observations = torch.randn(n, *agent.observation_shape, generator=torch.Generator().manual_seed(1))
    noise = agent.policy.noise(n, torch.Generator().manual_seed(2)).transpose(0, 1).contiguous()
    actions = agent.act(observations.numpy(), torch.Generator().manual_seed(2))
    return observations.numpy(), noise.numpy(), actions


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_acts_as_the_agent_does(algorithm: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'genpolicy[export]'")
    agent = agent_with_some_training(algorithm, *ALGORITHMS[algorithm])
    observations, noise, expected = questions(agent)
    session = onnxruntime.InferenceSession(agent.export(tmp_path / "deep" / "policy.onnx"))
    program = torch.export.load(agent.export(tmp_path / "policy.pt2"))
    for rows in (4, 1):
        given = {"observation": observations[:rows], "noise": noise[:rows]}
        for found in (session.run(["action"], given)[0], program.module()(*map(torch.from_numpy, given.values()))):
            np.testing.assert_allclose(np.asarray(found), expected[:rows], atol=TOLERANCE)
    assert not [leftover for leftover in tmp_path.iterdir() if leftover.name.startswith(".")]


def test_normalisation_and_ranking_are_in_the_file(tmp_path: Path) -> None:
    overrides = ("preset=smoke", "policy.num_candidates=3", "policy.acting=best")
    mean, std = torch.tensor([5.0, -2.0, 0.0]), torch.tensor([2.0, 0.1, 1.0])
    agents = [
        build_agent(compose(overrides), observation_shape=(3,), action_dim=2, normalization=one)
        for one in ((mean, std), None)
    ]
    for agent in agents:
        randomise(agent.policy)
        randomise(agent.critic)  # type: ignore[arg-type]
    found = []
    for number, agent in enumerate(agents):
        observations, noise, expected = questions(agent)
        program = torch.export.load(agent.export(tmp_path / f"{number}.pt2")).module()
        found.append(program(torch.from_numpy(observations), torch.from_numpy(noise)).numpy())
        np.testing.assert_allclose(found[-1], expected, atol=TOLERANCE)
    assert np.abs(found[0] - found[1]).max() > 0.01
    raw = torch.from_numpy(observations) * std + mean
    standardised = torch.export.load(tmp_path / "0.pt2").module()(raw, torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(standardised, found[1], atol=1e-5)


def test_images_are_given_as_bytes(tmp_path: Path) -> None:
    small = ("encoder=impala_small", "encoder.stack_sizes=[2]", "encoder.hidden_dims=[6]", "preset=smoke")
    agent = build_agent(compose(["algorithm=fql", *small]), observation_shape=(8, 8, 3), action_dim=2)
    program = torch.export.load(agent.export(tmp_path / "policy.pt2")).module()
    images = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    noise = agent.policy.noise(2, torch.Generator().manual_seed(2))
    found = program(images, noise.transpose(0, 1).contiguous()).numpy()
    np.testing.assert_allclose(found, agent.act(images.numpy(), torch.Generator().manual_seed(2)), atol=TOLERANCE)


def test_a_file_says_how_to_use_it(tmp_path: Path) -> None:
    """With the file alone: a process in which neither torch nor this library can be imported acts on a state."""
    pytest.importorskip("onnxruntime", reason="pip install 'genpolicy[export]'")
    agent = agent_with_some_training("meanflow_ql", "head.noise_scale=0.5")
    path = agent.export(tmp_path / "policy.onnx")
    script = f"""
import json, sys
sys.modules["torch"] = sys.modules["genpolicy"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r})
about = json.loads(session.get_modelmeta().custom_metadata_map[{METADATA!r}])
noise = about["inputs"]["noise"]
assert noise["law"] == "normal"
draws = noise["scale"] * np.random.default_rng(0).standard_normal([1, *noise["shape"][1:]], dtype=np.float32)
observation = np.zeros([1, *about["inputs"]["observation"]["shape"][1:]], np.float32)
print(json.dumps([about, session.run(["action"], {{"observation": observation, "noise": draws}})[0].tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    about, actions = json.loads(done.stdout)
    candidates = agent.policy.acting_candidates
    assert about["inputs"]["noise"] == {
        "shape": ["n", candidates, 2],
        "type": "float32",
        "law": "normal",
        "scale": 0.5,
    }
    assert about["outputs"]["action"]["shape"] == ["n", 2]
    assert np.shape(actions) == (1, 2) and np.abs(actions).max() <= 1


def test_the_agent_is_left_as_it_was(tmp_path: Path) -> None:
    agent = agent_with_some_training("fql")
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in agent.policy.parameters()]
    agent.export(tmp_path / "policy.pt2")
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.state_dict().items())
    assert [parameter.requires_grad for parameter in agent.policy.parameters()] == trainable


@pytest.mark.slow
def test_a_compiled_file_acts_as_the_agent_does(tmp_path: Path) -> None:
    """Half a minute of compiling."""
    agent = agent_with_some_training("meanflow_ql")
    observations, noise, expected = questions(agent)
    policy = torch._inductor.aoti_load_package(str(agent.export(tmp_path / "policy.pt2", "aot_inductor")))
    for rows in (4, 1):
        found = policy(torch.from_numpy(observations[:rows]), torch.from_numpy(noise[:rows]))
        np.testing.assert_allclose(found.numpy(), expected[:rows], atol=TOLERANCE)
    assert json.loads(policy.get_metadata()[METADATA])["inputs"]["noise"]["law"] == "normal"


@pytest.mark.parametrize(
    ("name", "format", "says"),
    [
        ("policy.pth", None, r"called 'policy.pth'; end its name in .onnx or .pt2"),
        ("policy.onnx", "onyx", "Unknown format 'onyx'. There are: onnx, torch_export, aot_inductor"),
        ("policy.onnx", "torch_export", r"format torch_export end in .pt2, but this one is called 'policy.onnx'"),
    ],
)
def test_other_files_are_refused(name: str, format: str | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        small_agent().export(tmp_path / name, format)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GenpolicyError, match=r"pip install 'genpolicy\[export\]'"):
        small_agent().export(tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
