# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled and interpreted, the same machines: state hashes, events and counters of every test are equal.

DESIGN section 3, "every core test runs both ways and compares".  Runs the tests that use machines once
more in a second process, in the mode that this process does not have.
"""

import json
import os
import pathlib
import subprocess
import sys

from shadowmmu.state import JIT

TESTS = pathlib.Path(__file__).parent.parent
FOLDERS = ("mmu", "vm", "state", "checker_invariants")


def run(jit, target):
    """The suite in a new process: its records."""
    environment = os.environ | {"SHADOWMMU_JIT": str(int(jit)), "SHADOWMMU_TEST_RECORD": str(target)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header",
               "--ignore", __file__, *(str(TESTS / folder) for folder in FOLDERS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return json.loads(target.read_text())


def test_both_modes_agree(own_records, tmp_path):
    other = run(not JIT, tmp_path / "other.json")
    assert other, "the other mode ran no test with a machine"
    own = json.loads(json.dumps(own_records))
    if JIT and not set(own) >= set(other):
        # only part of the suite ran in this process
        own = run(JIT, tmp_path / "own.json")
    # interpreted, fewer random walks are made
    compiled, interpreted = (own, other) if JIT else (other, own)
    assert [name for name in interpreted if compiled.get(name) != interpreted[name]] == []
