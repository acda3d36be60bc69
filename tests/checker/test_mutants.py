# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken MMUs are found, by scripts that are minimal and that the sound MMU passes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
LENGTHS = {
    "no flush in mmu_spte_update": 3, "no mark_unsync": 1, "role without access": 1, "wrong quadrant": 2,
    "root stays in the cache": 4, "no sync on MOV CR3": 2, "new table not protected": 2, "rmap not removed": 2,
    "invlpg does not sync": 2, "PCIDE set without unload": 8,
}
#: Those that a search finds within the budget of a test, and the length it may shrink to.
HUNTED = {"role without access": 2, "no sync on MOV CR3": 4}


def mutants(*arguments):
    """Run tests/checker/mutants.py in a process of its own, interpreted."""
    environment = dict(os.environ, SHADOWMMU_JIT="0", PYTHONPATH=str(HERE.parent.parent / "src"))
    done = subprocess.run([sys.executable, str(HERE / "mutants.py"), *map(str, arguments)], capture_output=True, text=True,
                          env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def replayed():
    return mutants("replay")


@pytest.mark.parametrize("name", LENGTHS)
def test_script_finds_the_mutant_and_is_minimal(replayed, name):
    sound, broken, length, shrunk = replayed[name]
    assert sound == 0
    assert broken != 0
    assert length == shrunk == LENGTHS[name]


@pytest.mark.parametrize("name", HUNTED)
def test_search_finds_the_mutant(name):
    result = mutants("hunt", name, 4, 2500)
    assert result["finding"], f"not found in {result['operations']} operations"
    assert 1 <= result["finding"]["operations"] <= HUNTED[name]
