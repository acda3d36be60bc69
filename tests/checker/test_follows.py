# SPDX-License-Identifier: GPL-2.0-or-later
"""Check 7: silent while the shadow says what the guest's tables say, and each kind of difference is seen."""

import pytest
from front import check

from shadowmmu import state
from shadowmmu.checker import entries, follows, geometry, known, ops, verify
from shadowmmu.checker.places import DATA, FULL, L1_TABLE32, L1_TABLES, L1_TOP, PAGE, PD, PD_B, PS, ROOT_A, U_TABLE, T, entry
from shadowmmu.state import core, interpreted
from shadowmmu.x86 import bits as b

ASIDE = known.mask(known.DEVIATIONS)


@core
def differs_in(handle):
    """Place of an entry that does not follow."""
    return follows.differs(state.attach(handle))


def after(machine, *lines):
    """The machine after these operations, in copy 1 of an arena; none of them may fail."""
    arena = geometry.Arena(geometry.MACHINES[machine], "linux-6.12", 1, copies=2, aside=ASIDE)
    rows = [ops.parse_line(line) for line in lines]
    assert entries.replay(arena, rows)[0] == 0
    arena.copy(1, 0)
    for row in rows:
        assert entries.perform(arena.handle(1), arena.area, entries.table_of([row]), 0) == 0
    return arena


def write(arena, gfn, index, value, size=8):
    """Change a guest entry behind everybody's back (no page of these machines has moved)."""
    vm = arena.view(1)
    offset = gfn * PAGE + index * size
    ram = interpreted.words(vm, vm.ram)
    if size == 8:
        ram[offset >> 3] = value
    else:
        shift = 8 * (offset & 4)
        ram[offset >> 3] = ram[offset >> 3] & ~(0xFFFFFFFF << shift) | value << shift


L2 = "v0 vm entry eptp(gfn=1, levels=4, ad) vpid=1"
RUN = "v0 vmrun ncr3=root(gfn=1) asid=1 flush=0"
#: Machine, operations that fill the shadow, (gfn, index, value, size) of a change that it does not follow.
CHANGES = (
    ("4-level", ("v0 load 0x80",), (U_TABLE, 0, 0, 8)),
    ("4-level", ("v0 load 0x80",), (U_TABLE, 0, entry(DATA + 2), 8)),
    ("4-level", ("v0 load 0x80",), (PD, 1, 0, 8)),
    ("4-level", ("v0 load 0x80",), (PD, 1, entry(T), 8)),
    ("4-level", ("v0 load 0x80",), (PD, 1, entry(U_TABLE, FULL | PS), 8)),
    ("4-level", ("v0 load 0x100",), (PD, 2, entry(DATA), 8)),
    ("4-level", ("v0 load 0x80",), (ROOT_A, 0, 0, 8)),
    ("5-level", ("v0 load 0x80",), (ROOT_A, 0, 0, 8)),
    ("huge", ("v0 load 0x420",), (PD - 1, 2, 0, 8)),
    ("pae", ("v0 load 0x80",), (PD, 1, entry(T), 8)),
    ("32-bit", ("v0 load 0x60",), (T, 3, 0, 4)),
    ("32-bit", ("v0 load 0xa0",), (T, 5, entry(DATA + 2), 4)),
    ("32-bit", ("v0 load 0x120",), (ROOT_A, 1, entry(T), 4)),
    ("npt", (RUN, "v0 load 0x80"), (U_TABLE, 0, 0, 8)),
    ("npt-32", (RUN, "v0 load 0x120"), (ROOT_A, 1, entry(T), 4)),
    ("ept", (L2, "v0 load 0x80"), (U_TABLE, 0, entry(DATA, FULL & ~7), 8)),
)


@pytest.mark.parametrize("machine, lines, change", CHANGES)
def test_a_difference_is_seen(machine, lines, change):
    arena = after(machine, *lines)
    assert differs_in(arena.handle(1)) == -1
    write(arena, *change)
    assert differs_in(arena.handle(1)) >= 0


def test_rights_and_what_is_not_shadowed_are_not_compared():
    arena = after("4-level", "v0 load 0x80")
    write(arena, U_TABLE, 0, entry(DATA + 1, FULL & ~2))
    write(arena, PD_B, 0, 0)
    assert differs_in(arena.handle(1)) == -1


def test_an_unsync_page_may_differ():
    arena = after("4-level", "v0 load 0x80", "v0 store 0x28 = pte(gfn=8, P|W|U|A|D)", "v0 store 0x20 = pte(gfn=10, P|W|U|A|D)")
    vm = arena.view(1)
    assert any(interpreted.page(vm, i).unsync for i in range(vm.n_pages))
    assert differs_in(arena.handle(1)) == -1


def test_a_write_that_takes_the_wrong_entry_away_is_found(tmp_path):
    patch, script = tmp_path / "p.py", tmp_path / "s.txt"
    patch.write_text('@replaces("mmu.writes.written_spte")\ndef written_spte(vm, sp, gpa):\n'
                     '    return geometry.first_sptep(vm, sp.id)\n')
    script.write_text("machine 4-level\nv0 load 0x80\nv0 store 0x48 = 0\n")
    assert "nothing found" in check(tmp_path, "--replay", script, "--aside", "all").stdout
    done = check(tmp_path, "--replay", script, "--aside", "all", "--patch", patch, code=1)
    assert done.stdout.startswith("FINDING  follows, after 2 operations")
    assert verify.FAILURES[verify.FOLLOWS][0] == "follows"


# ---- the number of levels of L1

def levels_of(machine, *lines):
    """(CR0.PG, CR4.PAE, CR4.LA57, EFER.LMA, page of CR3) of L1 afterwards."""
    vcpu = interpreted.vcpu(after(machine, *lines).view(1), 0)
    return (vcpu.cr0 & b.CR0_PG != 0, vcpu.cr4 & b.CR4_PAE != 0, vcpu.cr4 & b.CR4_LA57 != 0, vcpu.efer & b.EFER_LMA != 0,
            vcpu.cr3 >> 12)


@pytest.mark.parametrize("machine", ("npt-5", "ept-5"))
def test_l1_changes_its_number_of_levels(machine):
    assert levels_of(machine, "v0 levels 5") == (True, True, True, True, L1_TOP)
    assert levels_of(machine, "v0 levels 2") == (True, False, False, False, L1_TABLE32)
    assert levels_of(machine, "v0 levels 5", "v0 levels 2", "v0 levels 4") == (True, True, False, True, L1_TABLES)


def test_five_levels_need_a_host_with_five():
    assert levels_of("npt", "v0 levels 5") == (True, True, False, True, L1_TABLES)


@pytest.mark.parametrize("levels", (2, 4, 5))
def test_l1_reaches_its_memory_with_each(levels):
    """KVM's emulator walks L1's own tables: the store arrives at its own place."""
    arena = after("npt-5", f"v0 levels {levels}", "v0 store 0x100 = 0x1234 emulated")
    vm = arena.view(1)
    assert interpreted.words(vm, vm.ram)[0x100 >> 3] == 0x1234
