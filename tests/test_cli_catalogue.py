"""`genpolicy list` and `genpolicy data info` of tasks."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genpolicy import cli
from genpolicy.data import list_tasks
from genpolicy.errors import ConfigError

PEN = "pen-cloned-v1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))

    def invoke(*arguments):
        result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    return invoke


def listed(run, *arguments):
    return [row["name"] for row in json.loads(run("list", "tasks", *arguments, "--json"))]


def test_tasks_are_listed_and_filtered(run):
    assert len(listed(run)) == len(list_tasks())
    assert len(listed(run, "--paper")) == 73
    assert listed(run, "antmaze-u") == ["antmaze-umaze-v2", "antmaze-umaze-diverse-v2"]
    assert listed(run, "--paper", "*-cloned-v?") == [
        f"{name}-cloned-v1" for name in ("pen", "hammer", "door", "relocate")
    ]


def test_a_row_tells_what_this_machine_is_ready_for(run, tmp_path):
    (tmp_path / "pen-cloned-v1.hdf5").touch()
    rows = {row["name"]: row for row in json.loads(run("list", "tasks", "pen-", "--json"))}
    assert rows[PEN]["data_here"] and not rows["pen-human-v1"]["data_here"]
    assert rows[PEN]["missing_for_scoring"] is None
    table = run("list", "tasks", "pen-cloned").splitlines()
    assert [cell.strip() for cell in table[3].strip("│").split("│")] == [PEN, "score", "0.99", "yes", "yes", "yes"]


def test_long_names_are_whole_where_nobody_looks(run):
    name = "visual-humanoidmaze-medium-navigate-singletask-task1-v0"
    assert name in run("list", "tasks", name)


def test_other_lists_are_filtered_by_name_too(run):
    assert [row["name"] for row in json.loads(run("list", "heads", "mean*", "--json"))] == ["meanflow"]


def test_filters_that_leave_nothing_are_errors():
    with pytest.raises(ConfigError, match=r"None of the 528 tasks matches 'pen-humna-v1'. Did you mean 'pen-human-v1'"):
        CliRunner().invoke(cli.app, ["list", "tasks", "pen-humna-v1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--paper is for tasks"):
        CliRunner().invoke(cli.app, ["list", "heads", "--paper"], catch_exceptions=False)


def test_a_task_is_shown_without_its_data(run, tmp_path):
    facts = json.loads(run("data", "info", PEN, "--json"))
    assert facts["task"] == PEN and facts["in_paper"] and not facts["data_here"]
    assert facts["path"] == str(tmp_path / f"{PEN}.hdf5") and facts["urls"][0].endswith(f"{PEN}.hdf5")
    assert facts["protocol"]["evaluations"] == [500_000]
    assert {row["algorithm"] for row in facts["tuned"]} >= {"fql", "meanflow_ql"}
    assert len(facts["published"]) == 26
    text = run("data", "info", PEN)
    for shown in ("149 ± 6", "(5) second-hand: arXiv:2511.13035, Table 2", "policy.num_candidates"):
        assert shown in text


def test_a_task_with_data_is_shown_with_its_file(run, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / f"{PEN}.hdf5", "w") as file:
        file["observations"], file["actions"] = [[0.0] * 45] * 4, [[0.0] * 24] * 4
        file["rewards"], file["terminals"], file["timeouts"] = [1.0] * 4, [False] * 4, [False] * 3 + [True]
    facts = json.loads(run("data", "info", PEN, "--json"))
    assert facts["arrays"]["observations"]["shape"] == [4, 45]
    assert facts["data_here"] and facts["published"] and facts["tuned"]
    copy = Path(shutil.copy(tmp_path / f"{PEN}.hdf5", tmp_path / "mine.hdf5"))
    assert "published" not in json.loads(run("data", "info", str(copy), "--json"))
