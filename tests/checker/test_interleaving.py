# SPDX-License-Identifier: GPL-2.0-or-later
"""begin and finish: what happens between the walk and mmu_lock, and between an emulated store and its tracking."""

import pytest

from shadowmmu.checker import entries, geometry, known, ops

#: Name -> operations; the kernels' rules pass all of them (dossier 4, D1, D5, D8; E4).
SCRIPTS = {
    "another vCPU changes the entry that the walk saw": """v0 load 0x80 begin
v1 store 0x20 = pte(gfn=8, P|W|U|A|D)
v1 load 0x80
v0 finish
v0 load 0x80""",
    "the memslot goes and comes while a fault waits": """host memslot delete 1 as=0
v0 load 0x1a0 begin
host memslot create 1 gfn=12 pages=2 hva=12
host memslot delete 1 as=0
v0 finish""",
    "the page goes while a fault waits": """v0 load 0x80 begin
host unmap hva=9 pages=1
v0 finish
v0 load 0x80""",
    "faults wait for a notifier to end": """host unmap hva=8 pages=1 begin
v0 load 0x100
v1 load 0x100 begin
host finish
v1 finish
v0 load 0x100""",
    "write protection for the dirty log before its flush": """v0 store 0x80 = pte(gfn=8, P|W|U|A|D)
host dirty_log 0 on as=0 begin
v0 store 0x80 = pte(gfn=9, P|W|U|A|D)
host finish
v0 store 0x80 = pte(gfn=8, P|W|U|A|D)
host dirty_read 0 as=0 begin
v0 store 0x80 = pte(gfn=9, P|W|U|A|D)
host finish""",
    "two emulated writes to one entry": """v0 store 0x48 = pte(gfn=4, P|W|U|A|D) emulated begin
v1 store 0x48 = pte(gfn=5, P|W|U|A|D) emulated begin
v1 finish
v0 finish
v0 load 0x80""",
}


def run(text, aside=0):
    rows = ops.parse("machine 4-level\nvcpus 2\n" + text).rows
    return entries.replay(geometry.Arena(geometry.MACHINES["4-level"], "linux-6.12", 2, copies=2, aside=aside), rows)


@pytest.mark.parametrize("name", SCRIPTS)
def test_kernels_stand_it(name):
    assert run(SCRIPTS[name], known.mask(known.DEVIATIONS)) == (0, len(SCRIPTS[name].splitlines()))


def test_one_who_has_begun_can_only_finish():
    arena = geometry.Arena(geometry.MACHINES["4-level"], "linux-6.12", 2, copies=2)
    skipped = []
    from shadowmmu.checker import area
    rows = ops.parse("vcpus 2\nv0 load 0x80 begin\nv0 load 0x80\nv1 finish\nv0 finish\nv0 finish\nhost finish").rows
    entries.replay(arena, rows, lambda i: skipped.append(int(arena.head(1)[area.SKIPPED])))
    assert skipped == [0, 1, 1, 0, 1, 1]


def test_the_window_of_an_emulated_write():
    script = """v1 load 0x80
v0 store 0x48 = pte(gfn=4, P|W|U|A|D) emulated begin
v1 mov cr3 = root(gfn=1)"""
    assert run(script)[1] == 3 and run(script)[0] != 0
    assert run(script, known.mask(["write-window"]))[0] == 0
