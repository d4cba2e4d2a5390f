import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genpolicy

REPOSITORY = Path(__file__).parents[1]
SIMULATION_AND_PLOTTING = {"mujoco", "ogbench", "gymnasium", "matplotlib", "wandb", "tensorboard", "imageio", "scipy"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    code = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_brings_in_nothing_heavy() -> None:
    loaded = modules_after("import genpolicy")
    assert "genpolicy" in loaded
    assert not loaded & (SIMULATION_AND_PLOTTING | {"hydra", "omegaconf", "torch"})


def test_making_and_using_an_agent_needs_no_simulator_and_no_plotting() -> None:
    loaded = modules_after(
        "import numpy as np\nfrom genpolicy import make_agent\n"
        "agent = make_agent(observation_shape=(3,), action_dim=2, overrides=['preset=smoke'])\n"
        "assert agent.act(np.zeros(3)).shape == (2,)"
    )
    assert "torch" in loaded
    # scipy comes with nothing of ours here; torch may or may not import it
    assert not loaded & (SIMULATION_AND_PLOTTING - {"scipy"})


def test_public_names_can_be_imported_and_are_documented() -> None:
    assert set(genpolicy.__all__) == {"Agent", "load_agent", "make_agent"}
    for name in genpolicy.__all__:
        assert getattr(genpolicy, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        genpolicy.nothing  # noqa: B018


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert genpolicy.__version__ == project["version"]
