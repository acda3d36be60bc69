# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks of rules: reached by the operations that must reach them, not by others; counted by plans, kept, and steering."""

import pytest

from shadowmmu.checker import alphabet, coverage, geometry, known, lanes, ops, random_walk, report, saved, tasks
from shadowmmu.checker.portfolio import Plan
from shadowmmu.checker.seen import Seen
from shadowmmu.state import JIT

ALL_KNOWN = known.mask(known.DEVIATIONS)


def covered(machine, lines, vcpus=1):
    """Names reached by every sequence of these lines, each line at most so often as there are lines."""
    arena = geometry.Arena(geometry.MACHINES[machine], "linux-6.12", vcpus, copies=3, aside=ALL_KNOWN)
    rows = [ops.parse_line(line) for line in lines]
    lane = lanes.BreadthFirst(arena, {"all": rows}, Seen(), depth=len(lines))
    while lane.step(1000) == 0:
        pass
    return {name for i, name in enumerate(coverage.NAMES) if lane.covered >> i & 1}




@pytest.mark.parametrize("machine, lines, reached, not_reached", [
    ("4-level", ["v0 load 0x80"], {"fault fixed"}, {"root found in the cache", "shadow page zapped", "page made unsync"}),
    # CR3 as it was: kvm_set_cr3 does not look for a root
    ("4-level", ["v0 mov cr3 = {a}"], {"flush of this vCPU"}, {"root found in the cache", "root not in the cache"}),
    ("4-level", ["v0 mov cr3 = {b}"], {"root not in the cache"}, {"root: cached at depth 0"}),
    ("4-level", ["v0 mov cr3 = {b}", "v0 mov cr3 = {a}"], {"root not in the cache", "root: cached at depth 0"},
     {"root: cached at depth 1", "root: dummy"}),
    ("4-level", ["host unmap hva=9 pages=1", "v0 load 0x80"], {"notifier took sptes"}, {"notifier while a fault waits"}),
    ("4-level", ["v0 load 0x80 begin", "v0 finish"], {"fault went on under mmu_lock"},
     {"fault had to be retried after mmu_lock"}),
    ("4-level", ["v0 load 0x80 begin", "host unmap hva=9 pages=1", "v0 finish"],
     {"fault had to be retried after mmu_lock", "notifier while a fault waits"}, {"page synced"}),
    ("nonpaging", ["v0 load 0x80"], {"large page mapped"}, {"root: dummy"}),
])
def test_marks_of_a_few_operations(machine, lines, reached, not_reached):
    lines = [line.format(a=f"root(gfn={geometry.ROOT_A})", b=f"root(gfn={geometry.ROOT_B})") for line in lines]
    names = covered(machine, lines)
    assert reached <= names
    assert not not_reached & names


def test_names_fit_into_one_word_and_are_unique():
    assert len(set(coverage.NAMES)) == len(coverage.NAMES) <= 62
    assert coverage.missing(coverage.ALL) == [] and coverage.missing(0) == list(coverage.NAMES)


def test_a_plan_reports_what_it_covered():
    plan = Plan("linux-6.12", machines=["4-level"], vcpus=[1])
    plan.run(operations=2_000)
    assert plan.progress().covered == plan.lanes[0].covered | plan.lanes[1].covered != 0
    totals = [saved.Totals("a", 1, covered=1), saved.Totals("b", 1, covered=4)]
    seen = report.covered(totals)
    assert seen["reached"] == 2 and seen["of"] == len(coverage.NAMES) and len(seen["not_reached"]) == seen["of"] - 2
    assert tasks.Result(None).covered == 0


def test_states_that_reach_a_new_mark_are_kept():
    machine = geometry.MACHINES["4-level"]
    arena = geometry.Arena(machine, "linux-6.12", 1, copies=lanes.RandomWalk.COPIES, aside=ALL_KNOWN)
    walk = lanes.RandomWalk(arena, alphabet.alphabet(machine, 1), Seen(), 3)
    marks, kept, steps = 0, 0, 0
    while marks < 10 and steps < 200:
        assert walk.step(1) == 0
        steps += 1
        if walk.covered.bit_count() > marks and walk.work[random_walk.STATES] > kept:
            marks = walk.covered.bit_count()
        kept = int(walk.work[random_walk.STATES])
    # one in 256 by chance: several of so few states are there because of their marks
    assert int(walk.work[random_walk.POOLED]) >= 3 and steps < (200 if JIT else 201)
