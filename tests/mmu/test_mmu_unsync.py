# SPDX-License-Identifier: GPL-2.0-or-later
"""Unsync pages: batches of more than 16, shared tables, INVLPG, linking old tables.

Expectations: dossier 1.1 (seed 001, guest scenario), 2.3 rows "unsync" and "sync", 3.6 to 3.8, B10, C24; SDM 4.10.
"""

import pytest
from guest_tables import NEW, OLD, PAGE, TABLE, A, D, Guest, P, pages, unsync

from shadowmmu.mmu import events
from shadowmmu.vm import GuestFault
from shadowmmu.x86 import bits as b

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000
MEG2 = 2 << 20


def many(g, n, root=None):
    """n page tables under one directory, each mapping one page, all read once."""
    gvas = [GVA + MEG2 * k for k in range(n)]
    for gva in gvas:
        g.map(gva, A_PAGE, root=root)
    return gvas


@pytest.mark.parametrize("n", [1, 14, 15, 16, 17, 31, 40])
def test_batches(machine, n):
    """Seed 001: the vector holds 16 table entries, intermediate tables included; n leaves lag, one flush, all are new.
    A wrong order shows as a stale 16th or 31st page."""
    vm = machine()
    g = Guest(vm)
    gvas = many(g, n)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    entries = [g.alias(g.entry(gva)) for gva in gvas]
    g.start()
    for gva in gvas:
        assert g.cpu.read(gva) == OLD
    for entry in entries:
        g.cpu.write(entry + 8, 0)
        g.cpu.write(entry, B_PAGE | PAGE)
    assert vm.stat["mmu_unsync"] == n
    g.cpu.set_cr3(g.cpu.cr3)
    for gva in gvas:
        assert g.cpu.read(gva) == NEW
    assert vm.stat["mmu_unsync"] == 0


def test_table_shared_by_two_directories(machine):
    """Seed 001, "share one PT from two PDs": the table is reached by two paths; both are new after the flush, and the
    bits of both parents go (the second one's by the next walk)."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    table = g.table(GVA)
    other = GVA + (1 << 30)
    g.put(g.entry(other, 2), table | TABLE)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    entry = g.alias(g.entry(GVA))
    g.start()
    assert g.cpu.read(GVA) == g.cpu.read(other) == OLD
    [sp] = pages(vm, table)
    assert sp.parents == 2
    g.cpu.write(entry + 8, 0)
    g.cpu.write(entry, B_PAGE | PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    assert g.cpu.read(GVA) == g.cpu.read(other) == NEW
    assert all(not sp.unsync_children for sp in vm.shadow_pages)


def test_directories_shared_by_two_roots(machine):
    """Seed 001, "share PDs from two PML4s": the other root keeps its bit until it is synced itself; it must not serve
    the old translation then."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    entry = g.alias(g.entry(GVA))
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    other = g.page()
    vm.write_gpa(other, vm.read_gpa(g.root, 4096))
    g.start()
    assert g.cpu.read(GVA) == OLD
    g.cpu.set_cr3(other)
    assert g.cpu.read(GVA) == OLD
    g.cpu.write(entry + 8, 0)
    g.cpu.write(entry, B_PAGE | PAGE)
    for root in (g.root, other):
        assert all(sp.unsync_children for sp in pages(vm, root))
    g.cpu.set_cr3(g.root)
    assert g.cpu.read(GVA) == NEW
    g.cpu.set_cr3(other)
    assert g.cpu.read(GVA) == NEW
    assert all(not sp.unsync_children for sp in vm.shadow_pages)


@pytest.mark.parametrize("rules", ["linux-6.1", "linux-6.12", "linux-7.2"])
def test_invlpg_updates_one_address(machine, rules):
    """3.12: INVLPG rereads one entry; the page stays unsync, its other entries still lag."""
    vm = machine(rules=rules)
    g = Guest(vm)
    second = GVA + 0x1000
    g.map(second, A_PAGE)
    g.start()
    table = unsync(g, GVA, A_PAGE, B_PAGE)
    assert g.cpu.read(second) == OLD
    g.poke(second, B_PAGE | PAGE)
    g.cpu.invlpg(GVA)
    assert g.cpu.read(GVA) == NEW
    assert any(sp.unsync for sp in pages(vm, table))
    assert g.cpu.read(second) in (OLD, NEW)
    g.cpu.invlpg(second)
    assert g.cpu.read(second) == NEW


def test_invlpg_of_a_removed_page_faults(machine):
    """SDM 4.10.4.1: after INVLPG the old translation must not be used."""
    vm = machine()
    g = Guest(vm)
    g.start()
    unsync(g, GVA, A_PAGE, B_PAGE)
    g.poke(GVA, 0)
    g.cpu.invlpg(GVA)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert fault.value.error_code == 0


@pytest.mark.parametrize("gva", [1 << 47, 0xFFFF_7FFF_FFFF_F000, 1 << 62])
def test_invlpg_of_a_noncanonical_address_is_nothing(machine, gva):
    """SDM vol. 2, INVLPG: no fault, no effect."""
    vm = machine()
    g = Guest(vm)
    g.start()
    unsync(g, GVA, A_PAGE, B_PAGE)
    requests, flushes = g.cpu.requests, g.cpu.record.hw_flush_count
    g.cpu.invlpg(gva)
    assert g.cpu.requests == requests and g.cpu.record.hw_flush_count == flushes


def test_permission_reduction_is_seen_after_a_flush(machine):
    """A page made read-only natively: writes may go on until the flush, not after it; the page itself stays mapped."""
    vm = machine()
    g = Guest(vm)
    g.start()
    unsync(g, GVA, A_PAGE, B_PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    g.cpu.write(GVA, 1)
    g.poke(GVA, B_PAGE | PAGE & ~2)
    g.cpu.set_cr3(g.cpu.cr3)
    with pytest.raises(GuestFault) as fault:
        g.cpu.write(GVA, 2)
    assert fault.value.error_code == 3
    assert g.cpu.read(GVA) == 1


def test_cleared_accessed_and_dirty_bits_are_set_again(machine):
    """An OS clears A and D natively, flushes, and relies on the CPU to set them (SDM 4.8)."""
    vm = machine()
    g = Guest(vm)
    g.start()
    unsync(g, GVA, A_PAGE, B_PAGE)
    entry = g.entry(GVA)
    g.cpu.set_cr3(g.cpu.cr3)
    g.poke(GVA, B_PAGE | TABLE & ~A)
    g.cpu.set_cr3(g.cpu.cr3)
    assert not g.get(entry) & 0x60
    g.cpu.read(GVA)
    assert g.get(entry) & 0x60 == 0x20
    g.cpu.write(GVA, 3)
    assert g.get(entry) & 0x60 == 0x60


def test_old_table_is_synced_before_it_is_linked(machine):
    """B10, 65855ed8b034: edit a table through an alias while its directory hangs nowhere; link the directory under a
    slot that was not present (no flush needed); the access must see the edit."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    entry = g.alias(g.entry(GVA))
    slot3 = g.entry(GVA, 3)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    g.start()
    g.cpu.read(GVA)
    g.cpu.write(entry + 8, 0)
    # the guest unlinks the directory (a tracked write: the shadow entry goes), then changes the page table
    directory, table = g.get(slot3), g.table(GVA)
    g.cpu.write(g.alias(slot3), 0)
    g.cpu.write(entry, B_PAGE | PAGE)
    assert any(sp.unsync for sp in pages(vm, table))
    other = GVA + (1 << 39)
    g.put(g.entry(other, 3), directory)
    assert g.cpu.read(other) == NEW


def test_upper_level_use_ends_unsync(machine):
    """3.7, ddc16abbbae9 (C24): a page table that lags is then used as a page directory, too: its unsync page goes,
    since no page of a write-tracked gfn may lag."""
    vm = machine()
    g = Guest(vm)
    g.start()
    table = unsync(g, GVA, A_PAGE, B_PAGE)
    # entry 0 of the table maps B_PAGE; as a directory it names the page table at B_PAGE
    g.fill(B_PAGE, A_PAGE | PAGE)
    other = GVA + (1 << 30)
    g.put(g.entry(other, 3), table | TABLE)
    assert g.cpu.read(other & -(1 << 30)) == OLD
    assert all(not sp.unsync for sp in pages(vm, table))
    assert {sp.level for sp in pages(vm, table)} >= {2}
    # a write to it now is trapped, not silent
    g.poke(GVA, A_PAGE | PAGE)
    assert g.cpu.read(GVA) == OLD


def test_prefetch_never_makes_a_page_unsync(machine):
    """2.3, row "prefetch": mapping a page table's own page as a neighbour of a fault leaves it read-only."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    table = g.table(GVA)
    g.map(GVA + 0x1000, table)
    g.map(GVA + 0x2000, A_PAGE)
    g.start()
    g.cpu.read(GVA + 0x2000)
    [sp] = pages(vm, table)
    assert not sp.unsync
    assert sp.sptes[1] & 2 == 0
    # a real write does
    g.cpu.write(GVA + 0x1000 + 0xFF8, 0)
    assert pages(vm, table)[0].unsync


@pytest.mark.parametrize("bad", [PAGE & ~A, PAGE & ~P, PAGE | 1 << 45], ids=["A=0", "P=0", "reserved"])
def test_prefetch_takes_only_what_the_guest_could_use_now(machine, bad):
    """2.3: only gptes with P=1, A=1 and no reserved bit, W only with D=1, in the aligned group of 8; the first one that
    does not do ends it (FNAME(pte_prefetch) breaks there)."""
    vm = machine()
    g = Guest(vm)
    for k, flags in enumerate((PAGE, PAGE, PAGE & ~D, PAGE, bad, PAGE, PAGE, PAGE, PAGE)):
        g.put(g.entry(GVA + 0x1000 * k), A_PAGE + 0x1000 * k | flags)
    g.start()
    g.cpu.read(GVA)
    [sp] = pages(vm, g.table(GVA))
    assert set(sp.sptes) == {0, 1, 2, 3}
    assert [bool(sp.sptes[k] & 2) for k in range(4)] == [True, True, False, True]
    # a prefetched entry has not been used
    assert [bool(sp.sptes[k] & A) for k in range(4)] == [True, False, False, False]


def test_events_of_a_cycle(machine):
    """2.5: kvm_mmu_unsync_page when the page begins to lag, kvm_mmu_sync_page when it is synced, once each."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    entry = g.alias(g.entry(GVA))
    g.start()
    g.cpu.read(GVA)
    vm.drain_events()
    g.cpu.write(entry, B_PAGE | PAGE)
    g.cpu.write(entry, A_PAGE | PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    g.cpu.read(GVA)
    kinds = [row[0] for row in vm.drain_events()]
    assert kinds.count(events.UNSYNC_PAGE) == kinds.count(events.SYNC_PAGE) == 1
    assert kinds.index(events.UNSYNC_PAGE) < kinds.index(events.SYNC_PAGE)


def test_all_roles_of_a_gfn_become_unsync_together(machine):
    """3.6: every valid page with gptes of the gfn, whatever its role: a table seen through a read-only directory entry
    has a second page."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    table = g.table(GVA)
    other = GVA + (1 << 30)
    g.put(g.entry(other, 2), table | P | 4 | A)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    entry = g.alias(g.entry(GVA))
    g.start()
    g.cpu.read(GVA)
    g.cpu.read(other)
    assert len(pages(vm, table)) == 2
    g.cpu.write(entry, B_PAGE | PAGE)
    assert all(sp.unsync for sp in pages(vm, table))
    g.cpu.set_cr3(g.cpu.cr3)
    assert g.cpu.read(GVA) == g.cpu.read(other) == NEW
    with pytest.raises(GuestFault):
        g.cpu.write(other, 1)


def test_unreadable_table_is_zapped_at_sync(machine):
    """3.8: a gpte that cannot be read (the host took the page away) zaps the page; the access then works on what the
    host gives, a zero page: not present."""
    vm = machine()
    g = Guest(vm)
    g.start()
    table = unsync(g, GVA, A_PAGE, B_PAGE)
    vm.unmap_host(table, 4096)
    g.cpu.set_cr3(g.cpu.cr3)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert (fault.value.vector, fault.value.error_code) == (b.PF, 0)
