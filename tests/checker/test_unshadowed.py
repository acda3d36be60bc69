# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain guest on a host with two-dimensional paging: what its hardware holds, and which flushes KVM owes it."""

import pytest
from front import check

from shadowmmu.checker import alphabet, entries, geometry, known, ops, tlb_model
from shadowmmu.checker import area as areas
from shadowmmu.mmu import warn

ASIDE = known.mask(known.DEVIATIONS)
UNSHADOWED = [name for name, machine in geometry.MACHINES.items() if machine.unshadowed]


def after(machine, *lines, aside=ASIDE):
    """The machine after these operations in copy 1 of an arena, and the failure of the last (0: none)."""
    arena = geometry.Arena(geometry.MACHINES[machine], "linux-6.12", 1, copies=2, aside=aside)
    arena.copy(1, 0)
    failure = 0
    for line in lines:
        assert failure == 0, line
        failure = int(entries.perform(arena.handle(1), arena.area, entries.table_of([ops.parse_line(line)]), 0))
    return arena, failure


def held(machine, *lines):
    """(PCID, linear page) of every translation that the hardware holds afterwards."""
    arena, failure = after(machine, *lines)
    assert failure == 0
    head, base = arena.head(1), areas.VCPUS + areas.HELD
    names = [(head[base + tlb_model.ROWS + 3 * i], head[base + tlb_model.ROWS + 3 * i + 1])
             for i in range(head[base + tlb_model.COUNT])]
    return {(int(name) >> tlb_model.PCID_SHIFT & 0xFFF, int(address)) for name, address in names}


def test_both_direct_mmus_have_a_machine():
    assert {geometry.MACHINES[name].mmu for name in UNSHADOWED} == {"tdp", "tdp-legacy"}
    assert geometry.MACHINES["tdp-hyperv"].parameter("hyperv_flush") == 1
    assert geometry.MACHINES["tdp"].parameter("hyperv_flush") == 0


# Pages 4 and 5 (0x80, 0xa0) are global at the start (entries 0 and 1 of U), 7 (0xe0) is not; 0x100 lies in a large page.

@pytest.mark.parametrize("lines, taken, left", (
    # MOV CR3 takes its own PCID, but no global translation (SDM vol. 3 4.10.2.4, 4.10.4.1)
    (("v0 load 0x60", "v0 load 0x80", "v0 mov cr3 = root(gfn=1)"), (), {(0, 0x60), (0, 0x80)}),
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12)"), {(0, 0x60)}, ()),
    (("v0 load 0x80", "v0 mov cr3 = root(gfn=12)"), (), {(0, 0x80)}),
    # another PCID, and NOFLUSH, keep it
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, pcid=1)"), (), {(0, 0x60)}),
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, noflush)"), (), {(0, 0x60)}),
    # INVPCID type 1 of that PCID takes it; of another one not; type 3 takes all but global ones, type 2 these, too
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 1 pcid=0 0x0"), {(0, 0x60)}, ()),
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 1 pcid=1 0x0"), (), {(0, 0x60)}),
    (("v0 load 0x60", "v0 load 0x80", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 3 pcid=0 0x0"), {(0, 0x60)}, {(0, 0x80)}),
    (("v0 load 0x80", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 2 pcid=0 0x0"), {(0, 0x80)}, ()),
    # type 0: the address, under the PCID
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 0 pcid=0 0x60"), {(0, 0x60)}, ()),
    (("v0 load 0x60", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invpcid 0 pcid=0 0x40"), (), {(0, 0x60)}),
    # INVLPG takes a global translation of every PCID
    (("v0 load 0x80", "v0 mov cr3 = root(gfn=12, pcid=1)", "v0 invlpg 0x80"), {(0, 0x80)}, ()),
    # of a large page it takes all parts (4.10.2.3): here the page is no more when INVLPG names another part of it
    (("v0 load 0x160", "v0 mov cr3 = root(gfn=12, noflush)", "v0 invlpg 0x100"), {(0, 0x160)}, ()),
))
def test_what_the_hardware_forgets(lines, taken, left):
    rows = held("tdp", *lines)
    assert not set(taken) & rows and set(left) <= rows


def test_a_page_is_held_once_it_is_marked_and_mapped():
    """Nothing where KVM has no page yet, or where an entry's A bit is clear."""
    assert (0, 0x60) not in held("tdp")
    assert (0, 0x60) in held("tdp", "v0 load 0x60")
    assert (0, 0xE0) not in held("tdp", "v0 load 0x80"), "entry 3 of U is not marked as accessed at the start"
    assert (0, 0xE0) in held("tdp", "v0 load 0xe0")


#: Patch, script, what fails after all of its operations.
BROKEN = {
    "CR4.PGE changes without a flush": ('''
@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
''', "machine tdp\nv0 load 0x80 ac\nv0 store 0x20 = 0 user\nv0 mov cr4 = PAE|PGE\n", 3),
    "the notifier does not flush": ('''
@replaces("mmu.flush.remote_tlbs")
def remote_tlbs(vm):
    vm.stat[counters.REMOTE_TLB_FLUSH_REQUESTS] += 1
''', "machine tdp\nv0 fetch 0x60\nhost unmap hva=8 pages=4\n", 2),
    "an emulated INVPCID does not reach the hardware": ('''
@replaces("mmu.flush.tlb_gva")
def tlb_gva(vcpu, gva):
    return
''', "machine tdp-legacy\nv0 load 0x180 user\nv0 store 0x60 = 0\nv0 load 0x60\nv0 store 0x18 = pte(gfn=9, P|W|U|A|D)\n"
        "v0 invpcid 0 pcid=0 0x60 emulated\n", 5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_flush_that_is_not_done_is_found(name, tmp_path):
    patch, script, length = BROKEN[name]
    (tmp_path / "p.py").write_text(patch)
    (tmp_path / "s.txt").write_text(script)
    assert "nothing found" in check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all").stdout
    done = check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all", "--patch", tmp_path / "p.py", code=1)
    assert done.stdout.startswith(f"FINDING  translation, after {length} operations")


def test_invpcid_of_another_pcid_is_a_known_deviation():
    deviation = known.DEVIATIONS["invpcid-other"]
    lines = deviation.script.strip().splitlines()[1:]
    assert after("tdp", *lines)[1] == 0
    assert after("tdp", *lines, aside=0)[1] != 0


def test_there_is_no_reproducer_for_them(tmp_path):
    (tmp_path / "s.txt").write_text(known.DEVIATIONS["invpcid-other"].script)
    done = check(tmp_path, "--replay", tmp_path / "s.txt", "--with", "all", "--reproducer", tmp_path / "r.c", code=1)
    assert "no reproducer: machine tdp" in done.stderr and not (tmp_path / "r.c").exists()


def test_hyper_v_forgets_a_range_and_no_more():
    """Page 3 (gfn 8) loses its small mapping when the dirty log ends; pages 4 and 5 of another table's entries are dropped, too,
    and each by its own range, so nothing stale is left when the host moves the page."""
    lines = ("host dirty_log 0 on as=0", "v0 load 0x80", "host dirty_log 0 off as=0")
    assert (0, 0x80) in held("tdp-hyperv", *lines[:2])
    assert (0, 0x80) not in held("tdp-hyperv", *lines)
    assert after("tdp-hyperv", *lines, "host migrate hva=9")[1] == 0


def test_a_short_search_is_silent(tmp_path):
    """(The long ones: docs/checker-bounds.md.)"""
    options = [part for name in UNSHADOWED for part in ("--machine", name)]
    done = check(tmp_path, *options, "--operations", 1500, "--seconds", 60)
    assert "nothing found" in done.stdout


# ---- what came with them

def test_nx_recovery_zaps_what_was_split():
    arena, failure = after("huge-nx", "v0 smm enter", "v0 fetch 0x580", "host dirty_log 0 on as=0", "host nx_recovery 1")
    assert failure == 0 and arena.view(1).warnings == 0
    assert any(row[0] == ops.NX_RECOVERY for row in alphabet.alphabet(geometry.MACHINES["huge-nx"], 1)["memory"])
    assert not any(row[0] == ops.NX_RECOVERY for row in alphabet.alphabet(geometry.MACHINES["huge"], 1)["memory"])


def test_roots_are_freed_under_the_lock_that_they_want(tmp_path):
    """576a15de8d29 and 4fa96da3e6fe: with the role cleared, KVM_SET_CPUID2 takes mmu_lock in the wrong way."""
    assert after("tdp", "v0 set_cpuid maxphyaddr=19")[1] == 0
    assert "mmu_free_root_page" in warn.NAMES[45]
