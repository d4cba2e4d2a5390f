"""The tutorial works as it is written: all blocks, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documentation import ROOT, text_of

PAGE = ROOT / "docs" / "plug-in-a-head.md"
BLOCK = re.compile(r'^```(?: \{ \.)?(\w+)(?: title="(.+?)" \})?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

# The environment stands already, so the library is not installed again, and the head goes into a folder of the test.
PIP = """#!/bin/sh
for last; do :; done
case "$last" in ./*) exec {python} -m pip install -q --no-deps --no-build-isolation --target {site} "$last" ;; esac
"""
GENPOLICY = '#!/bin/sh\nexec {python} -m genpolicy "$@"\n'
PYTHON = '#!/bin/sh\nexec {python} "$@"\n'


@pytest.mark.slow
def test_the_blocks_of_the_tutorial_run_in_order(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    tools, site, folder = (tmp_path / name for name in ("tools", "site", "folder"))
    for made in (tools, site, folder):
        made.mkdir()
    for name, script in (("pip", PIP), ("genpolicy", GENPOLICY), ("python", PYTHON)):
        (tools / name).write_text(script.format(python=sys.executable, site=site))
        (tools / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": f"{site}:{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    for language, title, code in BLOCK.findall(text_of(PAGE)):
        if title:
            path = folder / title
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
            continue
        assert language == "bash", f"a block of {language} that is neither a file nor a command: {code}"
        done = subprocess.run(
            ["bash", "-eu", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert (folder / "runs" / "energy" / "status.json").exists()
    assert (folder / "quick" / "report" / "index.html").exists()
