"""Every public name has a docstring and stands on an API page, with the library that it refers to one click away."""

import importlib.util
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import griffe
import pytest
from typer.testing import CliRunner

from genpolicy import cli
from genpolicy.listing import option_rows
from genpolicy.registry import BACKBONES, CRITICS, ENCODERS, HEADS, POLICIES, Registry

TOOLS = Path(__file__).parents[2] / "docs" / "_tools"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


api = load("api")


def test_every_public_name_has_a_docstring() -> None:
    assert api.undocumented() == []


def test_every_public_name_stands_on_an_api_page() -> None:
    missing = api.missing()
    assert missing == [], "show these in docs/api, or list their module in INTERNAL of docs/_tools/api.py"


def test_every_name_of_the_examples_is_public() -> None:
    public = set(api.public())
    assert {
        "genpolicy.training.assembly.make_agent",
        "genpolicy.training.agent.Agent.act",
        "genpolicy.heads.base.GenerativeHead.loss",
        "genpolicy.heads.meanflow.MeanFlowHead",
        "genpolicy.registry.HEADS",
        "genpolicy.data.load_dataset",
        "genpolicy.data.files.check_file",
        "genpolicy.testing.heads.check_head",
        "genpolicy.bench.suite_report.write_report",
    } <= public
    assert "genpolicy.data.files.layout_of" not in public


def test_a_name_without_docstring_or_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "genpolicy"
    package.mkdir()
    (package / "__init__.py").write_text('"""A library."""\n')
    (package / "new.py").write_text("LIMIT = 3\n\nclass New:\n    '''New.'''\n    def go(self):\n        pass\n")
    (tmp_path / "new.md").write_text("# New\n\n::: genpolicy.new\n    options:\n      members: [LIMIT]\n")
    loaded = griffe.load("genpolicy", search_paths=[tmp_path], try_relative_path=False)
    monkeypatch.setattr(api, "package", lambda: loaded)
    monkeypatch.setattr(api, "PAGES", tmp_path)
    assert api.undocumented() == ["genpolicy.new.LIMIT", "genpolicy.new.New.go"]
    assert api.missing() == ["genpolicy.new.New", "genpolicy.new.New.go"]


def test_every_pattern_of_internal_modules_is_needed() -> None:
    names = [module.path.removeprefix("genpolicy.") for module in api.modules(api.package())]
    assert [pattern for pattern in api.INTERNAL if not any(fnmatch(name, pattern) for name in names)] == []


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    """The library as mkdocstrings sees it."""
    extensions = griffe.load_extensions(load("griffe_fields").ShowFields())
    return griffe.load("genpolicy", search_paths=[api.ROOT], try_relative_path=False, extensions=extensions)


@pytest.mark.parametrize("registry", [HEADS, CRITICS, POLICIES, BACKBONES, ENCODERS], ids=lambda one: one.plural)
def test_api_pages_show_every_option_with_its_default_and_meaning(registry: Registry, package: griffe.Module) -> None:
    for entry in registry.entries():
        config = package[f"{entry.config.__module__}.{entry.config.__qualname__}".removeprefix("genpolicy.")]
        sections = config.docstring.parse("google")
        shown = {one.name: one for section in sections if section.kind.value == "parameters" for one in section.value}
        for row in option_rows(entry.config):
            assert row["help"] in shown[row["name"]].description
            assert shown[row["name"]].annotation is not None
            written = str(shown[row["name"]].default)
            assert "option(" not in written and "slot(" not in written
            if isinstance(row["default"], int | float):
                assert eval(written) == row["default"]


def test_api_pages_show_every_field_of_a_record(package: griffe.Module) -> None:
    for name in ("batch.Batch", "heads.base.HeadLoss", "policies.base.PolicyLoss", "bench.statistics.Estimate"):
        assert all(field.docstring is not None for field in package[name].attributes.values())


def test_inventories_hold_what_their_script_says() -> None:
    inventories, hooks = load("inventories"), load("site_hooks")
    assert sorted(hooks.SITES) == sorted(path.stem for path in hooks.INVENTORIES.glob("*.inv"))
    for library in inventories.PAGES | inventories.ALIASES:
        with (hooks.INVENTORIES / f"{library}.inv").open("rb") as file:
            stored = inventories.Inventory.parse_sphinx(file)
        wanted = inventories.inventory(library)
        assert {name: item.uri for name, item in stored.items()} == {name: item.uri for name, item in wanted.items()}


def test_help_shows_brackets() -> None:
    shown = CliRunner().invoke(cli.app, ["bench", "run", "--help"], env={"COLUMNS": "200"}).output
    assert "tasks=[a,b] seeds=4 factors.NAME=[level,level]" in shown
