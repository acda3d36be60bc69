# SPDX-License-Identifier: GPL-2.0-or-later
"""What random walks draw: which pages an operation is about, and that a walk keeps to its pages and to what is possible."""

import collections

import pytest

from shadowmmu.checker import alphabet, choice, geometry, lanes, ops, random_walk
from shadowmmu.checker.focus import EVERY, Focus
from shadowmmu.checker.portfolio import ALL_KNOWN
from shadowmmu.checker.seen import Seen


def pages(machine, line):
    """Linear pages (hexadecimal) that a line of a script is about; None: none in particular."""
    m = geometry.MACHINES[machine]
    bits = Focus(m).about(ops.parse_line(line))
    return None if bits == EVERY else {hex(gva) for i, gva in enumerate(m.gvas) if bits >> i & 1}


@pytest.mark.parametrize("machine, line, expected", [
    ("4-level", "v0 load 0xa0", {"0xa0"}),
    ("4-level", "v0 invlpg 0x40", {"0x40"}),
    # U is mapped at 0x20; its entry 1 maps 0xa0 and 0x1a0
    ("4-level", "v0 store 0x28 = 0", {"0x20", "0xa0", "0x1a0"}),
    ("4-level", "v0 store 0x2c = 0 size=8", {"0x20", "0xa0", "0x1a0", "0xc0", "0x1c0"}),
    # PD is mapped at 0x40; its entry 1 leads to 0x80 .. 0xff
    ("4-level", "v0 store 0x48 = 0", {"0x40", "0x80", "0xa0", "0xc0", "0xe0"}),
    ("4-level", "host write 0xa8 = 0", {"0xa0", "0x1a0"}),
    # gfn 10 is mapped by U and lies in the large page
    ("4-level", "host unmap hva=10 pages=1", {"0xa0", "0x1a0", "0x140"}),
    ("4-level", "v0 mov cr4 = PAE", None),
    ("4-level", "host memslot delete 1 as=0", None),
    ("pae", "v0 store 0x28 = 0", {"0x20", "0xa0", "0x1a0"}),
    ("32-bit", "v0 store 0x24 = 0 size=4", {"0x20", "0x120", "0x320"}),
    ("nonpaging", "v0 store 0x20 = 0 size=4", {"0x20"}),
])
def test_pages_that_an_operation_is_about(machine, line, expected):
    assert pages(machine, line) == expected


@pytest.mark.parametrize("machine", geometry.MACHINES.values(), ids=lambda m: m.name)
def test_every_row_is_about_something_and_every_page_has_rows(machine):
    about = Focus(machine).about
    found = 0
    for rows in alphabet.alphabet(machine, 2).values():
        for row in rows:
            bits = about(row)
            assert bits == EVERY or 0 < bits < 1 << len(machine.pages)
            found |= bits if bits != EVERY else 0
    assert found == (1 << len(machine.pages)) - 1


def test_a_walk_keeps_to_its_choice():
    machine = geometry.MACHINES["4-level"]
    arena = geometry.Arena(machine, "linux-6.12", 1, copies=lanes.RandomWalk.COPIES, aside=ALL_KNOWN)
    walk, about = lanes.RandomWalk(arena, alphabet.alphabet(machine, 1), Seen(), 5), Focus(machine).about
    inside, specific, kinds, skipped, steps = 0, 0, collections.defaultdict(set), 0, 1500
    for _ in range(steps):
        before = int(walk.work[random_walk.SKIPS])
        assert walk.step(1) == 0
        row = walk.found()[-1]
        focus, bits = int(walk.work[choice.FOCUS]), about(row)
        if focus != EVERY and bits != EVERY:
            specific += 1
            inside += bits & focus != 0
        kinds[int(walk.work[random_walk.RESTARTS])].add(row[0])
        skip = int(walk.work[random_walk.SKIPS]) > before
        skipped += skip
        assert not (skip and row[0] in (ops.FINISH, ops.HOST_FINISH, ops.SMM_ENTER, ops.SMM_LEAVE)), ops.show(row)
    # by chance one in five would be
    assert inside > 0.6 * specific > 200
    assert skipped < 0.3 * steps
    sizes = [len(codes) for codes in kinds.values()]
    assert max(sizes) > 1.5 * min(sizes)
