"""README, docs and the example say what is true: code runs, commands parse, links resolve, tables fit the code."""

import importlib.util
import os
import re
import shlex
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from genpolicy import cli
from genpolicy.config import compose, compose_tree, parse_overrides
from genpolicy.errors import ConfigError
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.recipes import recipe_names
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES, Registry

ROOT = Path(__file__).parents[1]
EXAMPLES = [ROOT / "examples" / "smallest_head.py", ROOT / "examples" / "custom_head" / "genpolicy_imle.py"]
PAGES = [
    ROOT / "README.md",
    *(ROOT / folder / "README.md" for folder in ("algorithms", "examples/custom_head")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WITH_SUITE_TEST = ("ablations.md",)
PROSE = [page for page in PAGES if page.parent.name != "api"]


def text_of(page: Path) -> str:
    """A page's text with the files that it includes."""
    return re.sub(r'--8<-- "(.+?)"', lambda match: (ROOT / match[1]).read_text(), page.read_text())


def prose_of(page: Path) -> str:
    """A page's text without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


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


def load_examples() -> None:
    for path in EXAMPLES:
        load(path)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _registries_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (HEADS, CRITICS, POLICIES, BACKBONES, REFORMULATIONS):
        registry.names()  # the built-in parts are there before the copy
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def run(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run code as a module, so that torch.compile finds where its classes come from; return its names."""
    module = sys.modules.get(name) or ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, code in enumerate(blocks(page, "python"), start=1):
        try:
            run("documentation", code, monkeypatch)
        except Exception as error:
            error.add_note(f"in {page_id(page)}, python block {number}")
            raise


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_command_lines_parse(page: Path) -> None:
    for arguments in commands(page):
        command, parameters = parse(typer.main.get_command(cli.app), arguments)
        if command == "train" and "resume" not in dict(parse_overrides(parameters["overrides"])):
            load_examples()  # some commands train with their heads
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


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_every_block_is_run_or_checked_or_plain(page: Path) -> None:
    """Python runs and commands parse (above); files of the tutorial have a test; what is only shown is plain text."""
    copies = r"^<!-- generated: .*?^<!-- end -->$"
    written = re.sub(copies, "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for _, info, code in re.findall(r"^( *)```+ ?(\S[^\n]*)\n(.*?)^\1```+$", written, re.MULTILINE | re.DOTALL):
        if info == "text":
            assert not re.search(r"^(genpolicy|import|from|pip) ", code, re.MULTILINE), f"code in a plain block: {code}"
        elif info in ("{ .py }", "{ .python }", "toml"):
            assert re.fullmatch(r' *--8<-- "[^"]+"\n', code), f"not a copy of a file: {code}"
        elif info == "yaml":
            assert page.name in WITH_SUITE_TEST, f"{page_id(page)} has YAML that no test reads"
        else:
            files = page.name == "plug-in-a-head.md" and " title=" in info
            assert files or info in ("python", "bash", "bibtex"), f"{page_id(page)} has a block of {info!r}"


@pytest.mark.parametrize("page", PROSE, ids=page_id)
def test_every_figure_names_its_command(page: Path) -> None:
    paragraphs = [one for one in prose_of(page).split("\n\n") if one.strip()]
    for index, paragraph in enumerate(paragraphs):
        if not paragraph.startswith("!["):
            continue
        caption = next(one for one in paragraphs[index + 1 :] if not one.startswith("!["))
        assert re.match(r"\*[^*]", caption), f"{page_id(page)}: no caption below {paragraph}"
        assert re.search(r"`(genpolicy|make|python) [^`]+`", caption), f"{page_id(page)}: no command below {paragraph}"


def test_a_command_line_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="epsiodes"):
        parse(typer.main.get_command(cli.app), ["evaluate", "runs/cube", "--epsiodes", "50"])
    with pytest.raises(ConfigError, match=r"head\.time_stepz"):
        compose(["head.time_stepz=3"])


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_images_resolve(page: Path) -> None:
    targets = [
        target for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) if not target.startswith(("http", "mailto"))
    ]
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
    load_examples()
    for registry, prefix in ((HEADS, "head"), (CRITICS, "critic"), (POLICIES, "policy"), (BACKBONES, "head.backbone")):
        for entry in registry.entries():
            part = f"{prefix}={entry.name}"
            known |= set(flat(compose_tree([part])))
    key = r"((?:head|critic|policy|agent|trainer|data|logging)(?:\.[a-z_]+)+)"
    shell = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", text_of(page))])
    named = set(re.findall(rf"(?<![\w./]){key}(?==|$|[\s,])", shell, re.MULTILINE))
    named |= set(re.findall(rf'"{key}=', "\n".join(blocks(page, "python"))))
    wrong = named - known - {"head.sampels"}  # a misspelling on purpose
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


def test_every_recipe_has_a_page_with_all_its_parts_and_every_tuned_row_a_source() -> None:
    pages = {
        page.stem: page.read_text() for page in (ROOT / "docs" / "algorithms").glob("*.md") if page.stem != "index"
    }
    assert sorted(pages) == recipe_names()
    for name, text in pages.items():
        generated = re.findall(rf"^<!-- generated: (\w+) {name} -->$", text, re.MULTILINE)
        assert generated == ["facts", "recipe", "metrics", "deviations", "results"], name
    lines = (ROOT / "algorithms" / "tuned.csv").read_text().splitlines()
    assert lines[0] == "algorithm,task,key,value,when,source"
    assert not [line for line in lines[1:] if not line.rpartition(",")[2].strip('" ')]


@pytest.mark.parametrize(("page", "registry"), [("heads", HEADS), ("critics", CRITICS), ("policies", POLICIES)])
def test_every_part_has_a_section_in_its_catalogue_and_a_module_in_the_api(page: str, registry: Registry) -> None:
    headings = re.findall(r"^## .*`(\w+)` \{ #\1 \}$", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
    assert sorted(headings) == registry.names()
    shown = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api" / f"{page}.md").read_text(), re.MULTILINE))
    assert {entry.cls.__module__ for entry in registry.entries()} <= shown


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
    assert [package for package, imported in graph.items() if "cli" in imported] == ["__main__"]
