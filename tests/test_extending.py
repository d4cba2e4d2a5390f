"""What the examples and docs/extending.md build from outside is short, passes the kit and goes together."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genpolicy
from genpolicy.config import compose
from genpolicy.errors import PartsError
from genpolicy.networks import MLPConfig
from genpolicy.recipes import recipe_names
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES
from genpolicy.testing import check_backbone, check_critic, check_head, check_policy
from tests.test_documentation import ROOT, _registries_kept, blocks, load, load_examples, run  # noqa: F401  a fixture

PAGE = ROOT / "docs" / "extending.md"
PACKAGE = ROOT / "examples" / "custom_head"
SMALLEST = ROOT / "examples" / "smallest_head.py"
SMALL = MLPConfig(hidden_dims=(64, 64))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page's python blocks define, run in order."""
    return run("extending", "\n".join(blocks(PAGE, "python")), monkeypatch)


def test_the_smallest_head_is_short_and_keeps_what_a_head_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = SMALLEST.read_text().strip()
    assert len(smallest.splitlines()) < 40
    config = run("smallest", smallest, monkeypatch)["EnergyConfig"](backbone=SMALL)  # alone: the file is complete
    check_head(lambda **sizes: HEADS.create(config, **sizes))


def test_the_smallest_head_is_scored_by_the_energy_score() -> None:
    head = load(SMALLEST).EnergyHead(HEADS["energy"].config(), feature_dim=1, action_dim=2)
    head.sample = lambda features, noise: noise
    draws = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])  # at distances 5 and 1 of the action
    loss = head.loss(torch.zeros(1, 1), torch.zeros(1, 2), draws).per_sample
    torch.testing.assert_close(loss, torch.tensor([(5 + 1 - 18**0.5) / 2]))


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "critic": lambda page: check_critic(
        lambda **sizes: CRITICS.create(page["SarsaConfig"](hidden_dims=(32, 32)), **sizes)
    ),
    "policy": lambda page: check_policy(lambda **parts: POLICIES.create(page["FilteredCloningConfig"](), **parts)),
    "backbone": lambda page: check_backbone(lambda **sizes: BACKBONES.create(page["SineConfig"](width=32), **sizes)),
}


@pytest.mark.parametrize("kind", CHECKS)
def test_each_part_of_the_page_keeps_what_its_interface_promises(kind: str, page: dict[str, Any]) -> None:
    CHECKS[kind](page)


@pytest.mark.usefixtures("page")
def test_the_policy_of_the_page_refuses_a_critic_without_values() -> None:
    with pytest.raises(PartsError, match="Sarsa learns none"):
        compose(["algorithm=iql", "policy=filtered_cloning", "critic=sarsa"])
    assert compose(["algorithm=iql", "policy=filtered_cloning"]).policy is not None


# The package


def test_the_example_package_is_short_and_announces_its_head() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    ((name, module),) = project["entry-points"]["genpolicy.heads"].items()
    path = PACKAGE / f"{module}.py"
    assert len(path.read_text().splitlines()) < 80
    load(path)
    assert HEADS[name].cls.__module__ == module


def test_the_head_of_the_example_package_keeps_what_a_head_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    config = run("imle", (PACKAGE / "genpolicy_imle.py").read_text(), monkeypatch)["IMLEConfig"](backbone=SMALL)
    check_head(lambda **sizes: HEADS.create(config, **sizes))


def test_the_test_of_the_example_package_is_three_lines() -> None:
    (test,) = (PACKAGE / "tests").glob("test_*.py")
    body = re.search(r"def test_\w+\(\) -> None:\n.*check_head\(.*\)\n\n", test.read_text(), re.DOTALL)
    assert body is not None
    assert len(body[0].strip().splitlines()) <= 3


# Heads from outside in recipes of ours


@pytest.mark.parametrize("name", ["energy", "imle"])
def test_a_head_from_outside_serves_as_the_policy_of_meanflow_ql(name: str) -> None:
    load_examples()
    agent = genpolicy.make_agent(
        "meanflow_ql", observation_shape=(3,), action_dim=2, overrides=["preset=smoke", f"head={name}"]
    )
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    batch = {"observations": np.zeros((8, 3)), "actions": np.zeros((8, 2)), "next_observations": np.ones((8, 3))}
    for _ in range(3):  # the first rate under the warm-up is 0
        metrics = agent.update(batch | {"rewards": np.ones(8), "masks": np.ones(8)})
    assert torch.isfinite(metrics["policy/q_loss"]) and torch.isfinite(metrics["policy/bc_loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, agent.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", ["energy", "imle"])
def test_a_head_from_outside_goes_into_every_recipe_that_needs_no_density(name: str) -> None:
    load_examples()
    for algorithm in recipe_names():
        overrides = [f"algorithm={algorithm}", "preset=smoke"]
        if compose(overrides).policy.__class__.__name__ == "SoftConfig":
            with pytest.raises(PartsError, match="knows no density"):
                compose([*overrides, f"head={name}"])
        else:
            assert type(compose([*overrides, f"head={name}"]).head) is HEADS[name].config


@pytest.mark.parametrize("preset", ["paper", "small", "smoke"])
def test_presets_reach_the_backbone_of_a_head_from_outside(preset: str) -> None:
    load_examples()
    overrides = ["algorithm=meanflow_ql", f"preset={preset}"]
    assert compose([*overrides, "head=imle"]).head.backbone == compose(overrides).head.backbone


def test_the_package_stands_apart_from_the_library() -> None:
    sources: list[Path] = [*(ROOT / "genpolicy").rglob("*.py"), *(ROOT / "algorithms").iterdir()]
    assert [path for path in sources if path.is_file() and "imle" in path.read_text().lower()] == []
