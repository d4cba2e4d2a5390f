"""Policies as files that act without this library: ONNX, and torch's own formats."""

import contextlib
import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genpolicy import __version__
from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.training.storage import write_atomic

if TYPE_CHECKING:
    from genpolicy.training.agent import Agent

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "aot_inductor": ".pt2"}
"""Formats, and how their files' names end."""
METADATA = "genpolicy.json"
"""Name under which a file holds the description of its inputs and outputs."""
LARGEST_BATCH = 65536
"""Observations that an exported policy takes at once, at most."""


class Acting(nn.Module):
    """`agent.act` as a function of tensors: normalisation, candidates, ranking and clipping included."""

    def __init__(self, agent: "Agent"):
        super().__init__()
        parts = (agent.encoder, agent.policy, agent.critic)
        self.encoder, self.policy, self.critic = copy.deepcopy(parts)
        self.action_shape = (agent.action_chunk, agent.action_dim)[agent.action_chunk == 1 :]
        self.requires_grad_(False).to("cpu").eval()

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return actions (n, A), or chunks (n, h, A), for observations (n, ...) and noise (n, N, ...)."""
        action = self.policy.act(self.encoder(observation), noise.transpose(0, 1), self.critic)
        return action.reshape(-1, *self.action_shape)


def export(agent: "Agent", path: str | Path, format: str | None = None) -> Path:
    """Write an agent's policy to a file; see `Agent.export`."""
    path = Path(path).expanduser()
    write = _WRITERS[_format(path, format)]
    acting = Acting(agent)
    observation = torch.zeros(2, *agent.observation_shape, dtype=torch.uint8 if agent.images else torch.float32)
    noise = agent.policy.noise(2, torch.Generator()).transpose(0, 1).contiguous()
    rows = torch.export.Dim("n", min=1, max=LARGEST_BATCH)
    with torch.no_grad():
        axes = {"observation": {0: rows}, "noise": {0: rows}}
        program = torch.export.export(acting, (observation, noise), dynamic_shapes=axes)
    description = json.dumps(describe(agent))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write(program, description))
    return path


def describe(agent: "Agent") -> dict[str, Any]:
    """What a file says of its inputs and outputs; "n" is the number of observations, chosen at each call."""
    law, scale = agent.policy.head.noise_law
    return {
        "genpolicy": __version__,
        "inputs": {
            "observation": {"shape": ["n", *agent.observation_shape], "type": "uint8" if agent.images else "float32"},
            "noise": {
                "shape": ["n", agent.policy.acting_candidates, *agent.policy.head.noise_shape],
                "type": "float32",
                "law": law,
                "scale": scale,
            },
        },
        "outputs": {"action": {"shape": ["n", *Acting(agent).action_shape], "type": "float32", "low": -1, "high": 1}},
    }


def _format(path: Path, format: str | None) -> str:
    by_suffix = {suffix: name for name, suffix in reversed(SUFFIXES.items())}
    if format is None and path.suffix not in by_suffix:
        raise ConfigError(f"The file is called '{path.name}'; end its name in .onnx or .pt2, or name a format.")
    format = format or by_suffix[path.suffix]
    if format not in SUFFIXES:
        raise ConfigError(f"Unknown format '{format}'. There are: {', '.join(SUFFIXES)}.")
    if path.suffix != SUFFIXES[format]:
        raise ConfigError(f"Files of format {format} end in {SUFFIXES[format]}, but this one is called '{path.name}'.")
    return format


def _onnx(program: Any, description: str) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise GenpolicyError(f"Export to ONNX needs packages: pip install 'genpolicy[export]' ({error}).") from error
    with _quiet():
        written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["observation", "noise"])
    assert written is not None
    graph = written.model.graph
    graph.outputs[0].name = "action"
    written.model.metadata_props[METADATA] = description
    return written.model_proto.SerializeToString()


def _torch_export(program: Any, description: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: description})
    return buffer.getvalue()


def _aot_inductor(program: Any, description: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "policy.pt2")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(package),
            inductor_configs={"aot_inductor.metadata": {METADATA: description}},
        )
        return package.read_bytes()


_WRITERS = {"onnx": _onnx, "torch_export": _torch_export, "aot_inductor": _aot_inductor}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages that nothing here needs."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
