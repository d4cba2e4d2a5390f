import json

import pytest

from genpolicy.listing import REGISTRIES, option_rows, part_rows, recipe_rows
from genpolicy.policies import BCScheduleConfig
from genpolicy.recipes import recipe_names


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_part_has_a_row_with_a_summary_and_a_meaning_for_each_option(plural: str) -> None:
    rows = part_rows(plural)
    assert [row["name"] for row in rows] == REGISTRIES[plural].names()
    for row in rows:
        assert row["summary"], row["name"]
        assert all(option["help"] and option["type"] for option in row["options"]), row["name"]
    assert json.loads(json.dumps(rows))


def test_a_row_tells_type_default_and_meaning() -> None:
    rows = {row["name"]: row for row in option_rows(BCScheduleConfig)}
    assert rows["kind"]["type"] == "fixed | cosine | adaptive" and rows["kind"]["default"] == "fixed"
    assert rows["interval"] == {
        "name": "interval",
        "type": "int",
        "default": 2000,
        "help": "adaptive: updates between two adjustments",
    }
    head = {row["name"]: row for row in option_rows(REGISTRIES["heads"]["meanflow"].config)}
    assert (head["backbone"]["type"], head["backbone"]["default"]) == ("a backbone", "DiTConfig")
    assert head["time_steps"]["type"] == "int or null"


def test_every_recipe_has_a_row_with_its_parts() -> None:
    rows = {row["name"]: row for row in recipe_rows()}
    assert list(rows) == recipe_names()
    assert {key: rows["bc"][key] for key in ("head", "critic", "policy")} == {
        "head": "meanflow",
        "critic": "none",
        "policy": "behaviour_cloning",
    }
    assert all(row["summary"] and row["paper"] for row in rows.values())
