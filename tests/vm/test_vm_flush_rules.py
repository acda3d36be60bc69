# SPDX-License-Identifier: GPL-2.0-or-later
"""The flush table of dossier 1.2 (Linux 6.12, x86.c), row by row: a page table lags, an event, an access.

    kept, unloaded     what happens to the roots at the event itself
    requests           what is pending afterwards, exactly
    fresh              the architecture (or KVM's table) demands the new translation at the next access

Where nothing is demanded, the old and the new translation are both allowed (SDM vol. 3, 4.10.2.3, 4.10.4).
"""

from dataclasses import dataclass

import pytest
from guest_tables import CR0, NEW, NOFLUSH, OLD, PAGE, Guest, pages, unsync

from shadowmmu.vm import GuestFault
from shadowmmu.x86 import bits as b

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000


@dataclass(frozen=True)
class Row:
    """One row: `event(cpu, guest)` in `mode`, started with extra CR4 bits."""

    name: str
    event: object
    roots: str
    requests: frozenset
    fresh: bool
    mode: str = "level4"
    cr4: int = 0
    cr0: int = CR0


def _cr4(set_=0, clear=0):
    return lambda cpu, g: cpu.set_cr4(cpu.cr4 & ~clear | set_)


def _cr0(set_=0, clear=0):
    return lambda cpu, g: cpu.set_cr0(cpu.cr0 & ~clear | set_)


def _pg_off_on(cpu, g):
    cpu.set_cr0(cpu.cr0 & ~b.CR0_PG)
    cpu.set_cr0(cpu.cr0 | b.CR0_PG)


def _sregs(cpu, g):
    cpu.set_sregs(cr0=cpu.cr0, cr3=cpu.cr3, cr4=cpu.cr4 | b.CR4_PGE, efer=cpu.efer)


def _same_sregs(cpu, g):
    cpu.set_sregs(cr0=cpu.cr0, cr3=cpu.cr3, cr4=cpu.cr4, efer=cpu.efer)


GUEST, CURRENT = frozenset({"TLB_FLUSH_GUEST"}), frozenset({"TLB_FLUSH_CURRENT"})
NONE, CR3_FLUSH = frozenset(), frozenset({"MMU_SYNC", "TLB_FLUSH_CURRENT"})
ROWS = [
    Row("CR0.WP with PG=1", _cr0(clear=b.CR0_WP), "unloaded", NONE, False),
    Row("CR0.PG 1->0", _cr0(clear=b.CR0_PG), "unloaded", GUEST, False, mode="bits32"),
    # architecture: MOV CR0 that clears PG empties the TLB (SDM 4.10.4.1)
    Row("CR0.PG 1->0->1", _pg_off_on, "unloaded", GUEST, True, mode="bits32"),
    Row("CR4.PSE", _cr4(clear=b.CR4_PSE), "unloaded", NONE, False, cr4=b.CR4_PSE),
    Row("CR4.SMAP", _cr4(set_=b.CR4_SMAP), "unloaded", NONE, False),
    Row("CR4.PKE", _cr4(set_=b.CR4_PKE), "unloaded", NONE, False),
    Row("CR4.SMEP 0->1", _cr4(set_=b.CR4_SMEP), "unloaded", CURRENT, True),
    Row("CR4.SMEP 1->0", _cr4(clear=b.CR4_SMEP), "unloaded", NONE, False, cr4=b.CR4_SMEP),
    Row("CR4.PGE 0->1", _cr4(set_=b.CR4_PGE), "kept", GUEST, True),
    Row("CR4.PGE 1->0", _cr4(clear=b.CR4_PGE), "kept", GUEST, True, cr4=b.CR4_PGE),
    # reviewer's point 4: the guest flush must not get lost behind a role bit
    Row("CR4.PGE and PSE in one write", _cr4(set_=b.CR4_PGE | b.CR4_PSE), "unloaded", GUEST, True),
    Row("CR4.PGE and SMEP in one write", _cr4(set_=b.CR4_PGE | b.CR4_SMEP), "unloaded", GUEST, True),
    Row("CR4.PCIDE 0->1", _cr4(set_=b.CR4_PCIDE), "unloaded", NONE, False),
    Row("CR4.PCIDE 1->0", _cr4(clear=b.CR4_PCIDE), "kept", GUEST, True, cr4=b.CR4_PCIDE),
    Row("CR4 bits without meaning for paging", _cr4(set_=b.CR4_OSFXSR), "kept", NONE, False),
    Row("EFER.NX", lambda cpu, g: cpu.set_efer(cpu.efer & ~b.EFER_NX), "unloaded", NONE, False),
    Row("EFER.SCE", lambda cpu, g: cpu.set_efer(cpu.efer | b.EFER_SCE), "kept", NONE, False),
    Row("MOV CR3, same value", lambda cpu, g: cpu.set_cr3(cpu.cr3), "kept", CR3_FLUSH, True),
    Row("MOV CR3, same value, NOFLUSH", lambda cpu, g: cpu.set_cr3(cpu.cr3 | NOFLUSH), "kept", NONE, False,
        cr4=b.CR4_PCIDE),
    Row("INVLPG", lambda cpu, g: cpu.invlpg(GVA), "kept", frozenset({"TLB_FLUSH"}), True),
    Row("INVPCID address", lambda cpu, g: cpu.invpcid(0, 0, GVA), "kept", frozenset({"TLB_FLUSH"}), True,
        cr4=b.CR4_PCIDE),
    Row("INVPCID single", lambda cpu, g: cpu.invpcid(1, 0), "kept", CR3_FLUSH, True, cr4=b.CR4_PCIDE),
    Row("INVPCID all with globals", lambda cpu, g: cpu.invpcid(2), "kept", GUEST, True, cr4=b.CR4_PCIDE),
    Row("INVPCID all without globals", lambda cpu, g: cpu.invpcid(3), "kept", GUEST, True, cr4=b.CR4_PCIDE),
    Row("SMM entered and left", lambda cpu, g: (cpu.enter_smm(), cpu.leave_smm()), "unloaded", NONE, False),
    Row("INIT with PG=1", lambda cpu, g: cpu.init(), "unloaded", GUEST, False),
    Row("KVM_SET_SREGS, changed", _sregs, "unloaded", GUEST, True),
    Row("KVM_SET_SREGS, unchanged", _same_sregs, "kept", NONE, False),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(machine, row):
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_cpuid(pcid=True)
    g = Guest(vm, row.mode)
    g.start(cr0=row.cr0, cr4=row.cr4)
    cpu.set_privilege(0, ac=True)           # SMAP is not the question here
    unsync(g, GVA, A_PAGE, B_PAGE)
    assert cpu.requests == []
    row.event(cpu, g)
    roots = [cpu.root, *cpu.prev_roots]
    assert (row.roots == "unloaded") == all(r.hpa is None for r in roots)
    assert set(cpu.requests) == row.requests
    if not cpu.cr0 & b.CR0_PG:
        return
    value = cpu.read(GVA)
    assert value == NEW if row.fresh else value in (OLD, NEW)


def test_wp_with_paging_off_touches_nothing(machine):
    """Row "CR0.WP only, PG=0": nothing, no request."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    cpu.read(0x1000)
    root = cpu.root
    before = cpu.requests
    cpu.set_cr0(cpu.cr0 | b.CR0_WP)
    assert cpu.root == root and root.hpa is not None
    assert cpu.requests == before


def test_pae_toggled_outside_long_mode(machine):
    """Row "CR4.PAE toggled": role bit, TLB_FLUSH_CURRENT (and new PDPTRs, so LOAD_MMU_PGD)."""
    vm = machine()
    cpu = vm.vcpus[0]
    g = Guest(vm, "bits32")
    g.start()
    gva = 0x4000000
    unsync(g, gva, A_PAGE, B_PAGE)
    # the four PDPTEs that CR3 points to now: all absent, so valid
    assert vm.read_gpa(g.root, 32) == bytes(32)
    cpu.set_cr4(cpu.cr4 | b.CR4_PAE)
    assert cpu.root.hpa is None
    assert set(cpu.requests) == {"TLB_FLUSH_CURRENT", "LOAD_MMU_PGD"}
    with pytest.raises(GuestFault) as fault:
        cpu.read(gva)
    assert fault.value.vector == b.PF


def test_lme_and_la57_change_with_paging_off(machine):
    """Rows "EFER.LME", "CR4.LA57": both are roots' business even though no paging is on (C25, d6174299365d)."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=b.CR4_PAE, efer=0)
    for change in (lambda: cpu.set_efer(b.EFER_LME), lambda: cpu.set_cr4(cpu.cr4 | b.CR4_LA57)):
        cpu.read(0x1000)
        assert cpu.root.hpa is not None
        before = cpu.requests
        change()
        assert cpu.root.hpa is None
        assert cpu.requests == before


PREV_ROWS = [
    # a cached root of another PCID lags; the event is VM-wide for this vCPU, so it must not come back stale
    ("CR4.PGE toggled", lambda cpu: cpu.set_cr4(cpu.cr4 | b.CR4_PGE)),
    ("INVPCID all with globals", lambda cpu: cpu.invpcid(2)),
    ("INVPCID all without globals", lambda cpu: cpu.invpcid(3)),
    ("INVPCID single, the other PCID", lambda cpu: cpu.invpcid(1, 5)),
    ("INVPCID address, the other PCID", lambda cpu: cpu.invpcid(0, 5, GVA)),
    ("INVLPG drops the global translation of every PCID in KVM", lambda cpu: cpu.invlpg(GVA)),
    ("KVM_SET_SREGS", lambda cpu: cpu.set_sregs(cr0=cpu.cr0, cr3=cpu.cr3, cr4=cpu.cr4 | b.CR4_PGE, efer=cpu.efer)),
    ("SMM entered and left, PGE toggled", lambda cpu: (cpu.enter_smm(), cpu.leave_smm(),
                                                       cpu.set_cr4(cpu.cr4 | b.CR4_PGE))),
]


@pytest.mark.parametrize("name, event", PREV_ROWS, ids=[row[0] for row in PREV_ROWS])
def test_cached_root_does_not_come_back_stale(machine, name, event):
    """Dossier 1.2: with shadow paging a guest flush syncs the current root and frees previous roots that lag (I3)."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_cpuid(pcid=True)
    g = Guest(vm)
    g.start(cr4=b.CR4_PCIDE)
    other = g.page()
    # both address spaces have the alias of the table that will lag
    g.map(GVA, A_PAGE, root=other)
    table = g.table(GVA, root=other)
    here, there = g.alias(table), g.alias(table, root=other)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    cpu.set_cr3(other | 5)
    assert cpu.read(GVA) == OLD
    cpu.write(there + 0xFF8, 0)
    assert pages(vm, table)[0].unsync
    cpu.set_cr3(g.root)
    cpu.write(here, B_PAGE | PAGE)           # GVA's index is 0 in its table
    assert any(sp.unsync for sp in pages(vm, table))
    event(cpu)
    cpu.set_cr3(other | 5 | NOFLUSH)
    assert cpu.read(GVA) == NEW


def test_guest_flush_keeps_previous_roots_that_are_in_order(machine):
    """kvm_mmu_sync_prev_roots frees only roots with unsync pages below them."""
    vm = machine()
    cpu = vm.vcpus[0]
    g = Guest(vm)
    g.start()
    g.map(GVA, A_PAGE)
    other = g.page()
    g.map(GVA, A_PAGE, root=other)
    cpu.read(GVA)
    cpu.set_cr3(other)
    cpu.read(GVA)
    before = cpu.prev_roots
    assert before[0].pgd == g.root
    cpu.set_cr4(cpu.cr4 | b.CR4_PGE)
    cpu.read(GVA)
    assert cpu.prev_roots == before


def test_page_fault_drops_the_stale_translation_for_its_address(machine):
    """A #PF with P=1 invalidates the address before the guest sees it (kvm_inject_emulated_page_fault; SDM 4.10.4.1):
    after it, the access that the tables allow must not fault again."""
    vm = machine()
    cpu = vm.vcpus[0]
    g = Guest(vm)
    g.start()
    table = unsync(g, GVA, A_PAGE, B_PAGE)
    entry = g.alias(table)
    cpu.set_cr3(cpu.cr3)
    assert cpu.read(GVA) == NEW
    cpu.write(entry, B_PAGE | PAGE & ~2)
    cpu.set_cr3(cpu.cr3)
    with pytest.raises(GuestFault) as fault:
        cpu.write(GVA, 1)
    assert (fault.value.vector, fault.value.error_code, fault.value.address) == (b.PF, 3, GVA)
    cpu.write(entry, B_PAGE | PAGE)
    # P 0->1 needs no flush, RO->RW may fault once; a hardware CPU that faulted then walks anew
    cpu.write(GVA, 0x55)
    assert vm.read_gpa(B_PAGE, 1) == b"\x55"
