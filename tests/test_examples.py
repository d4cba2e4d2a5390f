"""The examples run as plain scripts, and what they write and print is what they say; every one stands in the docs."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").glob("*.py"))
SCRIPTS = {path.stem: path for path in FILES if path.read_text().startswith("# %%")}
PAGE = (ROOT / "docs" / "examples.md").read_text()


def run(name: str, folder: Path) -> tuple[str, Path]:
    """What a script prints at its smallest size, and the folder that it writes."""
    result = subprocess.run(
        [sys.executable, SCRIPTS[name], "--smoke"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["examples"]  # nothing is written elsewhere
    out = folder / "examples" / "out" / f"{name}_smoke"
    assert size_of(out / "figure.png")[0] >= 1200
    return result.stdout, out


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG file."""
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_toy_study_measures_every_head_on_every_density(tmp_path: Path) -> None:
    pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")
    printed, _ = run("toy_study", tmp_path)
    rows = re.findall(r"^(moons|ring|checkerboard) +(.+?) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert len(rows) == 3 * 7
    floors = {density: float(distance) for density, head, distance, _ in rows if head == "the law"}
    for density, head, distance, sharpness in rows:
        assert 0 < float(distance) < 1.5 and 0 <= float(sharpness) < 2
        if head != "the law":  # nobody knows a law after 20 updates
            assert float(distance) > floors[density]


@pytest.mark.slow
def test_train_and_inspect_leaves_a_complete_run_behind(tmp_path: Path) -> None:
    printed, out = run("train_and_inspect", tmp_path)
    assert "2000 transitions" in printed and "completed after 20 updates" in printed
    low, high = map(int, re.findall(r"interval (\d+)% to (\d+)%", printed)[0])
    assert 0 <= low < high <= 100
    assert json.loads((out / "run" / "status.json").read_text())["state"] == "completed"


@pytest.mark.slow
def test_compare_two_heads_reports_a_mean_of_each_and_their_difference(tmp_path: Path) -> None:
    printed, out = run("compare_two_heads", tmp_path)
    assert "4 of 4 jobs completed" in printed
    estimate = r" +([+-]?[\d.]+)  \[([+-]?[\d.]+), ([+-]?[\d.]+)\]"
    for label in ("meanflow", "gaussian", "difference"):
        value, low, high = map(float, re.findall(rf"^{label}{estimate}", printed, re.MULTILINE)[0])
        assert -1 <= low <= value <= high <= 1
    assert len(list((out / "results").glob("*.json"))) == 4
    assert (out / "report" / "index.html").is_file()


@pytest.mark.slow
def test_head_with_density_is_a_density_and_the_kit_finds_the_mistake(tmp_path: Path) -> None:
    pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")
    printed, _ = run("head_with_density", tmp_path)
    assert "The head Forgetful. Promised: sample_with_log_prob" in printed
    assert "CouplingFlow keeps what a head promises." in printed
    assert "head=coupling_flow: accepted" in printed and "head=meanflow: refused" in printed
    rows = re.findall(r"^(\w+) +KL ([\d.]+) nats .* mass in view ([\d.]+)$", printed, re.MULTILINE)
    assert [name for name, *_ in rows] == ["moons", "ring", "checkerboard"]
    for _, divergence, mass in rows:
        assert float(divergence) > 0 and 0.8 < float(mass) < 1.01  # a density integrates to 1


@pytest.mark.slow
def test_export_and_deploy_gives_the_same_actions_without_genpolicy(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="not installed: pip install 'genpolicy[export]'")
    pytest.importorskip("onnxscript", reason="not installed: pip install 'genpolicy[export]'")
    printed, out = run("export_and_deploy", tmp_path)
    assert float(re.findall(r"largest difference of 512 numbers: (\S+)", printed)[0]) < 1e-5
    assert np.abs(np.load(out / "actions.npy")).max() <= 1
    deployed = json.loads((out / "deployed.json").read_text())
    assert len(deployed["successes"]) == 2 and min(deployed["seconds"]) > 0
    for path in deployed["paths"]:
        assert len(path) > 1 and np.isfinite(path).all()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_has_a_section_with_its_program_and_figure(name: str) -> None:
    assert f'--8<-- "examples/{name}.py"' in PAGE
    assert f"assets/examples_{name}.png" in PAGE
    assert f"python examples/{name}.py" in PAGE
    width, height = size_of(ROOT / "docs" / "assets" / f"examples_{name}.png")
    assert width >= 1200 and height >= 500


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_is_a_notebook_that_begins_with_a_title(name: str) -> None:
    text = SCRIPTS[name].read_text()
    assert re.match(r'# %% \[markdown\]\n"""\n# [A-Z]', text)
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    prose = [cell for cell in cells if cell.startswith(" [markdown]\n")]
    assert len(prose) >= 5 and len(cells) > len(prose)
    assert all(re.fullmatch(r' \[markdown\]\n"""\n.*?\n"""\n*', cell, re.DOTALL) for cell in prose)
