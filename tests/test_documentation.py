"""README, docs and the example say what is true: code runs, commands parse, links resolve, tables fit the code."""

import importlib.util
import os
import re
import shlex
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer

import genpolicy
from genpolicy import cli
from genpolicy.config import compose, compose_tree, parse_overrides
from genpolicy.errors import ConfigError
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.recipes import recipe_names
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "custom_head.py"
PAGES = [ROOT / "README.md", ROOT / "algorithms" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = [page for page in PAGES if page.parent.name != "api"]


def text_of(page: Path) -> str:
    """A page's text with the files that it includes."""
    return re.sub(r'--8<-- "(.+?)"', lambda match: (ROOT / match[1]).read_text(), page.read_text())


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^``` ?(?:\{ \.)?(\w+)(?: \})?\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `genpolicy` command line in the page's shell blocks, comments left out."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("genpolicy ")]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _registries_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (HEADS, CRITICS, POLICIES, BACKBONES, REFORMULATIONS):
        registry.names()  # the built-in parts are there before the copy
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_python_blocks_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page_id(page)}, python block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_command_lines_parse(page: Path) -> None:
    for arguments in commands(page):
        command, parameters = parse(typer.main.get_command(cli.app), arguments)
        if command == "train" and "resume" not in dict(parse_overrides(parameters["overrides"])):
            load(EXAMPLE)  # one command trains with its head
            compose(parameters["overrides"])


def parse(
    command: Any, arguments: list[str], name: str = "genpolicy", parent: Any = None
) -> tuple[str, dict[str, Any]]:
    """Resolve subcommands and check arguments as the command line does, without running anything."""
    context = command.make_context(name, list(arguments), parent=parent)
    if hasattr(command, "commands"):
        name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        return parse(inner, rest, name, context)
    return name, context.params


def test_a_command_line_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="epsiodes"):
        parse(typer.main.get_command(cli.app), ["evaluate", "runs/cube", "--epsiodes", "50"])
    with pytest.raises(ConfigError, match=r"head\.time_stepz"):
        compose(["head.time_stepz=3"])


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_images_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not target.startswith(("http", "mailto"))]
    missing = [target for target in targets if target[0] != "#" and not (page.parent / target.split("#")[0]).exists()]
    assert not missing, f"{page_id(page)} links to {missing}"


@pytest.mark.parametrize("name", ["demo_actions.png", "demo_curves.png"])
def test_the_demo_figures_are_pictures_of_a_readable_size(name: str) -> None:
    header = (ROOT / "docs" / "assets" / name).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:24])
    assert width >= 600 and height >= 300


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_keys_exist(page: Path) -> None:
    known = {key for algorithm in recipe_names() for key in flat(compose_tree([f"algorithm={algorithm}"]))}
    for registry, prefix in ((HEADS, "head"), (CRITICS, "critic"), (POLICIES, "policy"), (BACKBONES, "head.backbone")):
        load(EXAMPLE)
        for entry in registry.entries():
            part = f"{prefix}={entry.name}"
            known |= set(flat(compose_tree([part])))
    key = r"((?:head|critic|policy|agent|trainer|data|logging)(?:\.[a-z_]+)+)"
    shell = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", text_of(page))])
    named = set(re.findall(rf"(?<![\w./]){key}(?==|$|[\s,])", shell, re.MULTILINE))
    named |= set(re.findall(rf'"{key}=', "\n".join(blocks(page, "python"))))
    wrong = named - known - {"head.euler_stepz"}  # a misspelling on purpose
    assert not wrong, f"{page_id(page)} names keys that do not exist: {sorted(wrong)}"


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += flat(value, f"{prefix}{key}.")
    return keys


def test_generated_tables_fit_the_code() -> None:
    generate = load(ROOT / "docs" / "_tools" / "generate.py")
    stale = {path: text for path, text in generate.expected().items() if not path.exists() or path.read_text() != text}
    if os.environ.get("UPDATE_DOCS"):
        for path, text in stale.items():
            path.write_text(text)
        stale = {}
    names = ", ".join(page_id(path) for path in stale)
    assert not stale, (
        f"{names}: run python docs/_tools/generate.py, or the tests with UPDATE_DOCS=1, and look at the diff"
    )


def test_every_recipe_has_a_section_and_every_tuned_row_a_source() -> None:
    headings = re.findall(r"^## .*`(\w+)`", (ROOT / "docs" / "algorithms.md").read_text(), re.MULTILINE)
    assert sorted(headings) == recipe_names()
    lines = (ROOT / "algorithms" / "tuned.csv").read_text().splitlines()
    assert lines[0] == "algorithm,task,key,value,source"
    assert not [line for line in lines[1:] if not line.split(",", 4)[4].strip('" ')]


def test_imports_point_one_way() -> None:
    graph = load(ROOT / "docs" / "_tools" / "source.py").import_graph()
    above = {"policies", "training", "bench", "cli", "config", "listing"}
    assert not graph["networks"] & {"heads", "critics", "data", "envs", *above}
    assert not graph["heads"] & {"critics", "data", "envs", *above}
    assert not graph["critics"] & {"heads", "data", "envs", *above}
    assert not graph["policies"] & {"data", "envs", *above}
    for package in ("data", "envs"):
        assert not graph[package] & {"heads", "critics", "networks", "registry", *above}
    assert not graph["training"] & {"bench", "cli"}
    assert [package for package, imported in graph.items() if "cli" in imported] == []


def test_the_example_head_is_short_and_learns_two_modes() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    load(EXAMPLE)
    learn = ["trainer.steps=1000", "agent.policy_optimizer.learning_rate=5e-3", "head.backbone.hidden_dims=[64,64]"]
    agent = genpolicy.make_agent(
        "bc", observation_shape=(1,), action_dim=1, overrides=["preset=small", "head=euler_flow", *learn]
    )
    rng, rows = np.random.default_rng(0), 256
    for _ in range(1000):
        observations = rng.uniform(-1, 1, (rows, 1))
        actions = rng.choice([-0.6, 0.6], (rows, 1)) + 0.05 * rng.standard_normal((rows, 1))
        same = {"observations": observations, "next_observations": observations, "actions": actions}
        agent.update(same | {"rewards": np.zeros(rows), "masks": np.ones(rows)})
    sampled = agent.act(np.zeros((500, 1)), torch.Generator().manual_seed(0))
    assert np.mean(np.abs(sampled + 0.6) < 0.2) > 0.3
    assert np.mean(np.abs(sampled - 0.6) < 0.2) > 0.3
    assert np.mean(np.abs(sampled) < 0.3) < 0.15


def test_the_example_head_serves_as_the_policy_of_meanflow_ql() -> None:
    load(EXAMPLE)
    agent = genpolicy.make_agent(
        "meanflow_ql", observation_shape=(3,), action_dim=2, overrides=["preset=smoke", "head=euler_flow"]
    )
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    batch = {"observations": np.zeros((8, 3)), "actions": np.zeros((8, 2)), "next_observations": np.ones((8, 3))}
    for _ in range(3):  # the first rate under the warm-up is 0
        metrics = agent.update(batch | {"rewards": np.ones(8), "masks": np.ones(8)})
    assert torch.isfinite(metrics["policy/q_loss"]) and "policy/head/flow_loss" in metrics
    assert any(not torch.equal(old, new) for old, new in zip(before, agent.policy.parameters(), strict=True))
