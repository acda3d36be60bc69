# SPDX-License-Identifier: GPL-2.0-or-later
"""Exhibits: each stored script finds its bug, is minimal and of the length told, and finds nothing with the fix."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from shadowmmu.museum import combined, exhibit, history, rows

HERE = pathlib.Path(__file__).parent
ALL = exhibit.every()
WITH_SCRIPT = [x.id for x in ALL if x.script]
#: Operations of the shortest script known; a shorter one is welcome and belongs here, too.
LENGTHS = json.loads((HERE / "lengths.json").read_text())


def replays(*arguments):
    """Run tests/museum/replays.py in a process of its own, interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "SHADOWMMU_PATCH"}
    environment |= {"SHADOWMMU_JIT": "0", "PYTHONPATH": str(HERE.parent.parent / "src")}
    done = subprocess.run([sys.executable, str(HERE / "replays.py"), *arguments], capture_output=True, text=True,
                          env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def replayed():
    return replays("scripts")


@pytest.mark.parametrize("id", WITH_SCRIPT)
def test_the_script_finds_the_bug_and_is_minimal(replayed, id):
    x = exhibit.named(id)
    kind, shrunk, length, mended = replayed[id]
    assert (kind,) == x.breaks
    assert LENGTHS[id] == x.length == length == shrunk
    assert mended == 0


def test_every_length_has_its_script():
    assert set(LENGTHS) == set(WITH_SCRIPT)


def test_the_combined_patch_is_the_exhibits_and_today():
    """Under the combined patch an exhibit does what it does alone; with none in force nothing is wrong."""
    chosen = [id for id in ("A2", "B1", "B10", "C1", "E5", "S001.alone") if id in WITH_SCRIPT]
    assert chosen
    for id, (alone, together, none) in replays("combined", *chosen).items():
        assert alone == together != 0, id
        assert none == 0, id


def test_most_exhibits_can_be_combined():
    _, numbers = combined.combine(ALL)
    assert {x.id for x in ALL if x.functions} - set(numbers) == {x.id for x in ALL if not combined.can_ask(x)}
    assert len(numbers) > 60


# ---- the catalogue

MUST = {*(f"A{i}" for i in (1, 2, 3, 4, 7, 8, 9, 10)), "B1", "B3", "B4", "B6", "B9", "B10", "B12", "B14", "B15", "B16", "B17",
        *(f"C{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 19, 21, 23, 24)), "D1", "D5", "D6", "D10", "D11"}


def test_each_row_is_an_exhibit_or_waits_with_a_reason():
    ids = {x.id for x in ALL}
    assert len(rows.ROWS) == 81
    assert ids & set(rows.WAITING) == set()
    assert set(rows.ROWS) - ids == set(rows.WAITING)
    assert all(why for _, why in rows.WAITING.values())
    assert len(ids & set(rows.ROWS)) >= 45
    assert MUST <= ids


def test_stories_name_their_fix():
    for x in ALL:
        assert x.fix.startswith("Fix: ") and len(x.story) > 20, x.id
        assert x.breaks == ("nothing",) or x.length or x.breaks == (), x.id


def test_variants_can_be_applied():
    from shadowmmu.rules.fields import FIELDS
    for name in history.SETS:
        values, paths = history.variant(name)
        assert set(values) == set(FIELDS) and all(os.path.exists(path) for path in paths)
    with pytest.raises(exhibit.ExhibitError, match="no variant 'Z1'; there are the exhibits"):
        history.variant("Z1")


@pytest.mark.parametrize("old, new, message", [
    ("id:      A1", "name:    A1", "the header must have the lines id, year"),
    ("rules:   linux-6.12", "rules:   linux-1.0", "no rules named linux-1.0"),
    ("drop_before_mmio_spte=0", "drop=0", "'drop=0' is not a field of the rules"),
    ("Fix:", "Mended:", "no paragraph that begins with Fix:"),
    ("needs:   -", "needs:   luck", "needs: luck; known are"),
    ("change:  drop_before_mmio_spte=0", "change:  -", "neither a function nor a rule is changed"),
])
def test_mistakes_in_an_exhibit_are_told(tmp_path, old, new, message):
    text = exhibit.named("A1").path.read_text()
    assert old in text
    path = tmp_path / "a1.py"
    path.write_text(text.replace(old, new))
    with pytest.raises(exhibit.ExhibitError, match=message):
        exhibit.read(path)


# ---- the command

def run(*arguments):
    environment = os.environ | {"SHADOWMMU_JIT": "0", "PYTHONPATH": str(HERE.parent.parent / "src")}
    return subprocess.run([sys.executable, "-m", "shadowmmu", *arguments], capture_output=True, text=True,
                          env=environment, timeout=120)


def museum(*arguments):
    return run("museum", *arguments)


def test_check_takes_a_variant():
    """The first fault of a PAE guest dereferences NULL under D6."""
    done = run("check", "--variant", "D6", "--machine", "pae", "--vcpus", "1", "--operations", "60", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["findings"][0]["rule"] == "warning"
    done = run("check", "--variant", "nix")
    assert done.returncode == 2 and done.stderr.startswith("shadowmmu: no variant 'nix'; there are the exhibits")


def test_the_list():
    done = museum("--json")
    listed = json.loads(done.stdout)
    assert [x["id"] for x in listed["exhibits"]] == [x.id for x in ALL]
    assert {w["id"] for w in listed["waiting"]} == set(rows.WAITING)


@pytest.mark.parametrize("arguments, message", [
    (("Z9",), "shadowmmu: no exhibit 'Z9'; `shadowmmu museum` lists them"),
    (("--score", "--only", "Z9"), "shadowmmu: no exhibit 'Z9'; `shadowmmu museum` lists them"),
    (("A1", "Z9"), "shadowmmu: no exhibit 'Z9'; `shadowmmu museum` lists them"),
    (("A1", "--score"), "shadowmmu: an exhibit, --score, --role-audit and --small-states exclude each other"),
    (("--only", "A1"), "shadowmmu: --only, --fresh and --save belong to --score"),
    (("--score", "--only", ","), "shadowmmu: --only names no exhibit"),
    (("A1", "--seconds", "-1"), "shadowmmu: --seconds -1 is no time to search"),
])
def test_bad_questions(arguments, message):
    done = museum(*arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.strip() == message
