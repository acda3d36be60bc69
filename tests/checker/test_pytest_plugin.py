# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin: scripts are collected, the fixture searches, a patch reaches the core; and the Hypothesis machine."""

import subprocess
import sys

import pytest
from front import BROKEN, environment

SOUND = "machine 4-level\nv0 load 0x80\n"
SHOWN = "machine 4-level\nv0 fetch 0x1e0\n"

FIXTURE = """
def test_mine(shadowmmu_check):
    assert shadowmmu_check("4-level", operations=700).operations >= 700
"""

STATEFUL = """
from hypothesis import Phase, settings
from shadowmmu.checker.strategies import machine_class
TestMmu = machine_class("4-level").TestCase
TestMmu.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None, derandomize=True,
                            phases=[Phase.generate])
"""

GIVEN = """
from hypothesis import given, settings, strategies as st
from shadowmmu.checker import ops, strategies

@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(("4-level", "pcid", "32-bit", "wide")))
def test_what_is_drawn_can_be_written_and_read(data, machine):
    row = data.draw(strategies.any_operation(machine, 2))
    assert ops.parse_line(ops.show(row)) == row
    row = data.draw(strategies.operations(machine, 2))
    assert ops.parse_line(ops.show(row)) == row

@settings(max_examples=10, deadline=None, derandomize=True)
@given(strategies.scripts("pcid", max_size=6))
def test_scripts_are_lists_of_rows(rows):
    assert ops.parse(ops.script("pcid", "linux-6.12", 1, rows)).rows == rows
"""


def run(folder, *arguments):
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
                           "-q", *arguments], cwd=folder, capture_output=True, text=True, env=environment(folder), timeout=280)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sound.shadowmmu").write_text(SOUND)
    (tmp_path / "shown.shadowmmu").write_text(SHOWN)
    (tmp_path / "broken.py").write_text(BROKEN)
    return tmp_path


def test_scripts_are_tests(folder):
    (folder / "test_mine.py").write_text(FIXTURE)
    done = run(folder)
    assert "3 passed" in done.stdout, done.stdout


def test_a_patch_makes_them_fail_with_the_finding(folder):
    (folder / "test_mine.py").write_text(FIXTURE)
    done = run(folder, "--shadowmmu-patch", "broken.py")
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "FINDING  translation, after 1 operation on the patched MMU" in done.stdout
    assert "Traceback" not in done.stdout


def test_an_expected_finding_turns_a_script_round(folder):
    (folder / "shown.shadowmmu").write_text("# expect: translation\n" + SHOWN)
    assert "2 passed" in run(folder, "--shadowmmu-patch", "broken.py").stdout
    done = run(folder)
    assert "1 failed, 1 passed" in done.stdout and "nothing is wrong, although `translation` was expected" in done.stdout


def test_a_script_with_a_mistake_names_the_line(folder):
    (folder / "sound.shadowmmu").write_text("v0 lod 0x80")
    done = run(folder, "sound.shadowmmu")
    assert "sound.shadowmmu: line 1: no operation reads like 'lod 0x80'" in done.stdout and "1 failed" in done.stdout


def test_a_patch_that_is_not_there(folder):
    done = run(folder, "--shadowmmu-patch", "none.py")
    assert done.returncode == 4 and "none.py: no such file" in done.stderr + done.stdout


def test_hypothesis_strategies(folder):
    (folder / "test_given.py").write_text(GIVEN)
    done = run(folder, "test_given.py")
    assert "2 passed" in done.stdout, done.stdout


def test_the_stateful_machine_passes_a_sound_mmu_and_fails_a_broken_one(folder):
    (folder / "test_stateful.py").write_text(STATEFUL.replace("EXAMPLES", "5"))
    done = run(folder, "test_stateful.py")
    assert "1 passed" in done.stdout, done.stdout
    (folder / "test_stateful.py").write_text(STATEFUL.replace("EXAMPLES", "40"))
    done = run(folder, "test_stateful.py", "--shadowmmu-patch", "broken.py")
    assert "1 failed" in done.stdout and "FINDING  translation" in done.stdout, done.stdout
