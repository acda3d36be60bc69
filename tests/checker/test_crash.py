# SPDX-License-Identifier: GPL-2.0-or-later
"""An MMU that crashes is a finding with the shortest script, and the command goes on to say so (compiled, as users run it)."""

import json
import subprocess
import sys

import pytest
from front import environment

from shadowmmu.checker import blackbox, crash, geometry, ops
from shadowmmu.checker.shrink import smallest

#: A place far outside of all tables.
WILD = '''
@replaces("mmu.writes.written_spte")
def written_spte(vm, sp, gpa):
    return geometry.first_sptep(vm, sp.id) + (1 << 40)
'''
pytestmark = pytest.mark.xdist_group("crash")


@pytest.fixture(scope="module")
def patch(tmp_path_factory):
    path = tmp_path_factory.mktemp("crash") / "wild.py"
    path.write_text(WILD)
    return path


def check(tmp_path, *arguments, **more):
    """`shadowmmu check` compiled."""
    variables = environment(tmp_path, **more)
    variables.pop("SHADOWMMU_JIT")
    return subprocess.run([sys.executable, "-m", "shadowmmu", "check", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, env=variables)


@pytest.mark.parametrize("how", (("--seconds", 20), ("--depth", 2)))
def test_both_searches_find_it(tmp_path, patch, how):
    done = check(tmp_path, "--patch", patch, "--machine", "4-level", "--vcpus", 1, *how)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FINDING  crash, after 1 operation on the patched MMU")
    assert "signal: SIG" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_a_replay_of_it_is_made_short(tmp_path, patch):
    script = tmp_path / "s.txt"
    script.write_text("machine 4-level\nv0 load 0x80\nv0 load 0x60\nv0 store 0x48 = 0\n")
    done = check(tmp_path, "--patch", patch, "--replay", script, "--json")
    assert done.returncode == 1
    finding = json.loads(done.stdout)["findings"][0]
    assert finding["rule"] == "crash" and finding["operations"] == 1
    assert finding["script"].splitlines()[-1] == "v0 store 0x48 = 0"


def test_what_does_not_crash_ends_as_always(tmp_path, patch):
    script = tmp_path / "s.txt"
    script.write_text("machine 4-level\nv0 load 0x80\n")
    done = check(tmp_path, "--patch", patch, "--replay", script)
    assert done.returncode == 0 and "nothing found" in done.stdout
    assert check(tmp_path, "--patch", patch, "--replay", tmp_path / "none.txt").returncode == 2


# ---- its parts

def test_operations_that_crash_are_told_from_those_that_do_not():
    """`fatal` in this process, whose core is sound: nothing crashes, and one that kills itself does."""
    arena = geometry.Arena(geometry.MACHINES["4-level"], "linux-6.12", 1, copies=2)
    rows = [ops.parse_line(line) for line in ("v0 load 0x80", "v0 load 0x60")]
    assert crash.fatal(arena, rows) == 0 and crash.fatal(arena, []) == 0


def test_the_shortest_list_is_reached():
    assert smallest(list(range(20)), lambda some: len(some) if {3, 11} <= set(some) else 0) == [3, 11]


def test_the_black_box_says_which_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(blackbox, "folder", str(tmp_path))
    assert blackbox.read(str(tmp_path)) == {}
    arena = geometry.Arena(geometry.MACHINES["4-level"], "linux-6.12", 1, copies=2)
    rows = [ops.parse_line(line) for line in ("v0 load 0x80", "v0 load 0x60")]
    blackbox.note_rows(arena, rows)
    found = blackbox.read(str(tmp_path))
    assert found["machine"] == "4-level" and [tuple(row) for row in found["rows"]] == rows
    blackbox.rest()
    assert "machine" not in blackbox.read(str(tmp_path))
