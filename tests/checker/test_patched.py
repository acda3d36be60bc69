# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken MMUs that are not in the museum (patches/): the generic plan found each; its script is minimal and deterministic.

The hunt itself: `make hunt`.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
#: Operations of the scripts that the hunt came to.
LENGTHS = json.loads((HERE / "scripts" / "lengths.json").read_text())


def run(environment, *arguments):
    environment = dict(os.environ, PYTHONPATH=str(HERE.parent.parent / "src"), **environment)
    done = subprocess.run([sys.executable, str(HERE / "patched.py"), *map(str, arguments)], capture_output=True, text=True,
                          env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    patch = tmp_path_factory.mktemp("patched") / "combined.py"
    run({"SHADOWMMU_JIT": "0"}, "combine", patch)
    return json.loads(run({"SHADOWMMU_JIT": "0", "SHADOWMMU_PATCH": str(patch)}, "replay"))


@pytest.mark.parametrize("name", LENGTHS)
def test_script_finds_the_broken_mmu_and_is_minimal(replayed, name):
    sound, broken, length, shrunk = replayed[name]
    assert sound == 0
    assert broken != 0
    assert length == shrunk == LENGTHS[name]


def test_every_patch_was_found():
    assert set(LENGTHS) == {path.stem for path in (HERE / "patches").glob("*.py")}
