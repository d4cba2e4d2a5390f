"""Time of one action, by head and number of steps: the agent, and the exported file in onnxruntime, on one thread."""

import numpy as np
import pytest
import torch

from benchmarks.speed.conftest import ACTION_DIM, OBSERVATION_DIM
from genpolicy import Agent, make_agent

HEADS = {
    "gaussian": (),
    "meanflow": (),
    "distilled_flow": (),
    "drifting": (),
    "shortcut": (),
    "consistency": (),
    "flow-1": ("head.flow_steps=1",),
    "flow-5": ("head.flow_steps=5",),
    "flow-10": ("head.flow_steps=10",),
    "diffusion-5": ("head.diffusion_steps=5",),
}


def cloner(name: str) -> Agent:
    """An agent that acts by a single sample of the head, at paper size: four layers of 512."""
    head = [f"head={name.partition('-')[0]}", "head.backbone=mlp", "head.backbone.hidden_dims=[512,512,512,512]"]
    sizes = {"observation_shape": (OBSERVATION_DIM,), "action_dim": ACTION_DIM}
    return make_agent("bc", overrides=[*head, "policy.acting=single", *HEADS[name]], **sizes)


@pytest.mark.parametrize("how", ["agent", "onnx"])
@pytest.mark.parametrize("name", HEADS)
def test_latency(benchmark, name: str, how: str, tmp_path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    agent = cloner(name)
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    benchmark.extra_info.update({"evaluations": agent.policy.head.steps})
    if how == "agent":
        benchmark.pedantic(agent.act, args=(observation,), rounds=300, warmup_rounds=30)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(agent.export(tmp_path / "policy.onnx"), options)
        noise = agent.policy.noise(1, torch.Generator()).transpose(0, 1).numpy()
        given = {"observation": observation[None], "noise": noise}
        benchmark.pedantic(session.run, args=(["action"], given), rounds=300, warmup_rounds=30)
    torch.set_num_threads(before)
