# SPDX-License-Identifier: GPL-2.0-or-later
"""Loops of the TDP MMU that give mmu_lock away (rule `tdp_yields`), and pages that userspace has mapped in advance.

A loop that gives the lock away to nobody must come to the same state as one that keeps it: `tdp-contended`, and the same machine
without the rule, do the same random operations and are compared after each.
"""

import dataclasses
import random

import pytest
from front import check
from test_digest import digest_of
from test_unshadowed import after, held

from shadowmmu.checker import alphabet, entries, geometry, known, ops, verify
from shadowmmu.checker import area as areas
from shadowmmu.state import JIT

ASIDE = known.mask(known.DEVIATIONS)
CONTENDED = geometry.MACHINES["tdp-contended"]
CALM = dataclasses.replace(CONTENDED, parameters=())
#: Root, PDPT, PD and T of the guest, and the data page that T maps at 0x60.
ON_THE_WAY = (1, 2, 3, 4, 8)


def arena_of(machine, rules, aside=ASIDE):
    arena = geometry.Arena(machine, rules, 1, copies=2, aside=aside)
    arena.copy(1, 0)
    return arena


def do(arena, row):
    """Perform one operation in copy 1: the failure (0: none), whether it was skipped, and what the state is then."""
    failure = int(entries.perform(arena.handle(1), arena.area, entries.table_of([row]), 0))
    return failure, int(arena.head(1)[areas.SKIPPED]), int(digest_of(arena.handle(1), arena.area))


@pytest.mark.parametrize("rules", ("linux-6.1", "linux-6.12", "linux-7.2"))
def test_giving_the_lock_away_to_nobody_changes_nothing(rules):
    both = [arena_of(machine, rules) for machine in (CONTENDED, CALM)]
    rows = [row for kind in alphabet.alphabet(CONTENDED, 1).values() for row in kind]
    draw, states = random.Random(rules), set()
    for _ in range(200 if JIT else 2):
        for arena in both:
            arena.copy(1, 0)
        for _ in range(40 if JIT else 20):
            row = draw.choice(rows)
            one, other = (do(arena, row) for arena in both)
            assert one == other, ops.show(row)
            assert one[0] == 0, ops.show(row)
            states.add(one[2])
    assert len(states) > (1000 if JIT else 10)


def test_the_far_page_has_a_table_below_the_second_entry_of_the_root():
    """That is what a loop over the root's entries can leave out."""
    assert CONTENDED.mmio >> 2 * (CONTENDED.tdp_level - 1) == 1
    assert CONTENDED.tables()[5][2] >> 12 == CONTENDED.mmio
    assert CONTENDED.parameter("tdp_yields") == 1
    assert all(machine.parameter("tdp_yields") == 0 for machine in geometry.MACHINES.values() if machine != CONTENDED)


#: Patch, script, what fails after all of its operations.
BROKEN = {
    "a flush that is due does not come before the lock goes": ('''
@replaces("mmu.tdp_ranges.resched")
def resched(vm, it, flushing):
    return tdp_iter.cond_resched(vm, it)
''', "machine tdp-contended\nv0 load 0x140 user\nhost unmap hva=8 pages=4\n", "translation"),
    "the step that restarts goes on, too": ('''
@replaces("mmu.tdp_iter.cond_resched")
def cond_resched(vm, it):
    if not state.rules(vm).tdp_yields or it.next_last_level_gfn == it.yielded_gfn:
        return False
    restart(vm, it)
    return True
''', "machine tdp-contended\nv0 load 0xc0\nhost memslot delete 1 as=0\n", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_loop_that_forgets_is_found(name, tmp_path):
    patch, script, kind = BROKEN[name]
    (tmp_path / "p.py").write_text(patch)
    (tmp_path / "s.txt").write_text(script)
    assert "nothing found" in check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all").stdout
    found = check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all", "--patch", tmp_path / "p.py", code=1).stdout
    assert found.splitlines()[0].endswith("after 2 operations on the patched MMU")
    assert kind is None or found.startswith(f"FINDING  {kind}")
    # no line of it can be left out
    lines = script.splitlines()
    for i in (1, 2):
        (tmp_path / "s.txt").write_text("\n".join(lines[:i] + lines[i + 1:]) + "\n")
        check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all", "--patch", tmp_path / "p.py")


# ---- pages mapped in advance

@pytest.mark.parametrize("machine", ("tdp", "tdp-legacy", "tdp-contended"))
def test_pages_mapped_in_advance_need_no_fault(machine):
    """The hardware can hold what it walks by itself: nothing is missing on the way to 0x60."""
    lines = [f"v0 pre_fault gfn={gfn}" for gfn in ON_THE_WAY]
    assert (0, 0x60) in held(machine, *lines)


@pytest.mark.parametrize("missing", ON_THE_WAY)
def test_one_that_is_missing_is_missed(missing):
    assert (0, 0x60) not in held("tdp", *(f"v0 pre_fault gfn={gfn}" for gfn in ON_THE_WAY if gfn != missing))


def test_where_there_is_no_memory_nothing_is_mapped():
    assert after("tdp", "v0 pre_fault gfn=14", "v0 load 0xc0")[1] == 0


def test_before_6_11_there_is_no_such_call():
    arena = arena_of(geometry.MACHINES["tdp"], "linux-6.1")
    assert do(arena, ops.parse_line("v0 pre_fault gfn=8"))[:2] == (0, 1)


def test_an_obsolete_root_is_freed_first_since_6_15():
    rows = [ops.parse_line(line) for line in ("host memslot delete 1 as=0", "v0 pre_fault gfn=8")]
    for rules, last in (("linux-6.12", verify.LIVELOCK), ("linux-7.2", 0)):
        arena = arena_of(geometry.MACHINES["tdp"], rules, aside=0)
        assert do(arena, rows[0])[0] == 0
        assert do(arena, rows[1])[0] == last
