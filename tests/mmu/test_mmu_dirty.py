# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side: dirty logs, memslots that change, read-only slots, unmapped pages.

Expectations: dossier 2.3 rows "dirty logging", "zap-all fast", "host/MMU writable", 4 A10, B12, E2, E3, E4; the KVM API
for KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG.
"""

import pytest
from guest_tables import NEW, OLD, PAGE, PS, A, D, Guest, pages

from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, VmError

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000
MEG, MEG2 = 1 << 20, 2 << 20


def logged(machine, **options):
    """A guest with two mapped pages; slot 0 keeps a dirty log that has been read once."""
    vm = machine(**options)
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.map(GVA + 0x1000, B_PAGE)
    g.start()
    g.cpu.write(GVA, 1)
    g.cpu.write(GVA + 0x1000, 1)
    vm.log_dirty(0, True)
    return vm, g


def test_log_starts_empty_and_sees_every_way_of_writing(machine):
    """KVM_GET_DIRTY_LOG: pages written since the last call; A and D bits that KVM sets in guest tables count, too."""
    vm, g = logged(machine)
    assert vm.dirty_log(0) == []
    g.cpu.read(GVA)
    assert vm.dirty_log(0) == []
    g.cpu.write(GVA, 2)
    assert vm.dirty_log(0) == [A_PAGE >> 12]
    assert vm.dirty_log(0) == []
    g.cpu.write(GVA, 3)
    g.cpu.write(GVA + 0x1000, 3)
    assert vm.dirty_log(0) == [A_PAGE >> 12, B_PAGE >> 12]
    # KVM sets A in the guest's entry
    g.map(GVA + 0x20000, A_PAGE, PAGE & ~(A | D))
    g.cpu.read(GVA + 0x20000)
    assert vm.dirty_log(0) == [g.table(GVA) >> 12]
    # an emulated write to a tracked directory
    directory = g.table(GVA, 2)
    alias = g.alias(directory)
    g.cpu.read(alias)
    vm.dirty_log(0)
    g.cpu.write(alias + 511 * 8, 0)
    assert directory >> 12 in vm.dirty_log(0)


def test_prefetch_does_not_dirty(machine):
    """2.3, row "prefetch": not in a dirty-logged slot if the entry would be writable."""
    vm, g = logged(machine)
    for k in range(2, 8):
        g.map(GVA + 0x1000 * k, A_PAGE + 0x1000 * k)
    g.cpu.read(GVA + 0x7000)
    assert A_PAGE + 0x2000 >> 12 not in vm.dirty_log(0)


def test_large_pages_are_split_and_come_back(machine):
    """E4 and row "dirty logging": 4K only while logging; switching it off lets large pages come back (B15)."""
    vm = machine(64 * MEG, config=Config(memory_pages=64 * MEG >> 12, host_level=2))
    g = Guest(vm)
    g.put(g.entry(16 * MEG, 2), 16 * MEG | PAGE | PS)
    g.start()
    g.cpu.write(16 * MEG, 1)
    assert vm.stat["pages_2m"] == 1
    vm.log_dirty(0, True)
    assert vm.dirty_log(0) == []
    for k in (0, 3, 511):
        g.cpu.write(16 * MEG + 0x1000 * k, 1)
    assert vm.dirty_log(0) == [0x1000, 0x1003, 0x11FF]
    assert vm.stat["pages_2m"] == 0
    vm.log_dirty(0, False)
    g.cpu.write(16 * MEG, 2)
    assert vm.stat["pages_2m"] == 1


def test_table_in_a_logged_slot(machine):
    """B12, f81602958c11: a gfn that is write-protected for the log only becomes a page table: a remote flush is due,
    since a CPU may still hold the writable translation."""
    vm, g = logged(machine)
    g.cpu.write(GVA, g.get(g.entry(GVA)))
    vm.dirty_log(0)
    flushes = vm.stat["remote_tlb_flush_requests"]
    other = GVA + (1 << 30)
    g.put(g.entry(other, 2), A_PAGE | 0x27)
    g.fill(A_PAGE, B_PAGE | PAGE)
    g.cpu.read(other)
    assert vm.stat["remote_tlb_flush_requests"] > flushes


def test_read_only_slot(machine):
    """KVM_MEM_READONLY: reads are RAM, writes are MMIO for userspace, and memory keeps its value."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 16 * MEG, MEG, 8 * MEG, readonly=True)
    g = Guest(vm)
    g.map(GVA, 16 * MEG)
    vm.write_gpa(16 * MEG, b"\x42")
    g.start()
    for _ in range(2):
        assert g.cpu.read(GVA, 1) == 0x42
        with pytest.raises(VmError, match="MMIO"):
            g.cpu.write(GVA, 1)
    assert vm.read_gpa(16 * MEG, 1) == b"\x42"


def test_tables_in_a_read_only_slot_keep_their_bits(machine):
    """3.3, step 7: A and D are not set where the host mapping is read-only, and the walk succeeds."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 16 * MEG, MEG, 8 * MEG, readonly=True)
    g = Guest(vm)
    table = 16 * MEG
    g.put(g.entry(GVA, 2), table | 0x27)
    g.put(table + g.index(GVA, 1) * 8, 0x600000 | PAGE & ~(A | D))
    g.start()
    g.cpu.write(GVA, 9)
    assert vm.read_gpa(0x600000, 1) == b"\x09"
    assert g.get(table) & (A | D) == 0


def test_deleted_slot(machine):
    """E3 and row "zap-all fast": everything of the old layout dies, accesses become MMIO; nothing is left behind."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 16 * MEG, MEG, 8 * MEG)
    g = Guest(vm)
    g.map(GVA, 16 * MEG)
    g.start()
    g.cpu.write(GVA, 1)
    generation = vm.view.mmu_valid_gen
    vm.delete_memslot(1)
    assert vm.view.mmu_valid_gen == generation ^ 1
    assert "FREE_OBSOLETE_ROOTS" in g.cpu.requests
    with pytest.raises(VmError, match="MMIO"):
        g.cpu.read(GVA)


def test_deleted_slot_that_held_the_root(machine):
    """The guest's own CR3 loses its memory: faults, no crash."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    g = Guest(vm)
    g.map(GVA, 4 * MEG)
    g.start()
    g.cpu.read(GVA)
    vm.delete_memslot(0)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert fault.value.error_code == 0
    vm.add_memslot(0, 0, 8 * MEG, 0)
    g.cpu.read(GVA)


def test_moved_slot(machine):
    """KVM_MR_MOVE: same memory at another gpa; nothing answers at the old one."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 16 * MEG, MEG, 8 * MEG)
    g = Guest(vm)
    g.map(GVA, 16 * MEG)
    g.map(2 * GVA, 32 * MEG)
    g.start()
    g.cpu.write(GVA, 0x55)
    vm.move_memslot(1, 32 * MEG)
    assert g.cpu.read(2 * GVA) == 0x55
    with pytest.raises(VmError, match="MMIO"):
        g.cpu.read(GVA)


@pytest.mark.parametrize("call", [
    lambda vm: vm.add_memslot(1, 0, 4096, 0), lambda vm: vm.delete_memslot(7), lambda vm: vm.move_memslot(7, 0),
    lambda vm: vm.dirty_log(0), lambda vm: vm.add_memslot(1, 32 * MEG, 4097, 0),
    lambda vm: vm.add_memslot(1, 32 * MEG, 4096, 1 << 40), lambda vm: vm.log_dirty(7, True),
])
def test_refused_slot_calls(machine, call):
    """Overlap, unknown slot, no log, bad size: an error, and nothing has changed."""
    vm = machine(4 * MEG)
    before = vm.store.hash()
    with pytest.raises(VmError):
        call(vm)
    assert vm.store.hash() == before


def test_host_takes_a_page_away(machine):
    """E2, 15aaa819e20c and the MMU notifier: after the hole is punched the guest sees a fresh zero page."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.map(GVA + 0x1000, B_PAGE)
    g.start()
    g.cpu.write(GVA, 0x11)
    g.cpu.write(GVA + 0x1000, 0x22)
    flushes = vm.stat["remote_tlb_flush_requests"]
    vm.unmap_host(A_PAGE, 0x1000)
    assert vm.rmap(A_PAGE >> 12) == []
    assert vm.stat["remote_tlb_flush_requests"] == flushes + 1
    assert g.cpu.read(GVA) == 0
    assert g.cpu.read(GVA + 0x1000) == 0x22
    g.cpu.write(GVA, 0x33)
    assert vm.read_gpa(A_PAGE, 1) == b"\x33"


def test_unmapping_what_nobody_maps_flushes_nothing(machine):
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.start()
    g.cpu.read(GVA)
    flushes = vm.stat["remote_tlb_flush_requests"]
    vm.unmap_host(0xC00000, 0x4000)
    assert vm.stat["remote_tlb_flush_requests"] == flushes


def test_unmap_takes_large_pages(machine):
    """A hole in the middle of a large mapping removes the whole spte; the rest comes back 4K."""
    vm = machine(64 * MEG, config=Config(memory_pages=64 * MEG >> 12, host_level=2))
    g = Guest(vm)
    g.put(g.entry(16 * MEG, 2), 16 * MEG | PAGE | PS)
    g.start()
    g.cpu.write(16 * MEG + 0x5000, 5)
    vm.unmap_host(16 * MEG + 0x123000, 0x1000)
    assert vm.stat["pages_2m"] == 0
    assert g.cpu.read(16 * MEG + 0x5000) == 5
    assert g.cpu.read(16 * MEG + 0x123000) == 0
    assert vm.stat["pages_2m"] == 0 and vm.stat["pages_4k"] > 0


def test_unmapped_page_table(machine):
    """The host takes a page table's page: the guest's entries are zero then (what the host gave), after a flush."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.start()
    g.cpu.read(GVA)
    vm.unmap_host(g.table(GVA), 0x1000)
    with pytest.raises(GuestFault):
        g.cpu.read(GVA + 0x20000)
    g.cpu.read(GVA)


def test_one_memory_at_two_addresses(machine):
    """Two slots on the same hva: a notifier reaches both."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 16 * MEG, MEG, 7 * MEG)
    g = Guest(vm)
    g.map(GVA, 16 * MEG)
    g.map(GVA + 0x1000, 7 * MEG)
    g.start()
    g.cpu.write(GVA, 0x66)
    assert g.cpu.read(GVA + 0x1000) == 0x66
    vm.unmap_host(7 * MEG, 0x1000)
    assert vm.rmap(16 * MEG >> 12) == vm.rmap(7 * MEG >> 12) == []
    assert g.cpu.read(GVA) == g.cpu.read(GVA + 0x1000) == 0


def test_recovery_at_a_slot_that_starts_inside_a_large_page(machine):
    """A10, ef057cbf825e: a 2M PDE straddles the slot's start; logging on, then off, must not look below the slot."""
    vm = machine(0, config=Config(memory_pages=16384, host_level=2))
    vm.add_memslot(0, 0, 8 * MEG, 0)
    vm.add_memslot(1, 17 * MEG, 7 * MEG, 17 * MEG)
    g = Guest(vm)
    g.put(g.entry(GVA, 2), 16 * MEG | PAGE | PS)
    g.start()
    g.cpu.write(GVA + MEG, 1)
    vm.log_dirty(1, True)
    g.cpu.write(GVA + MEG + 0x5000, 1)
    vm.log_dirty(1, False)
    g.cpu.write(GVA + MEG, 1)
    assert vm.stat["pages_2m"] == 0


def test_fast_page_fault_of_direct_maps(machine):
    """Row "fast page fault": without guest paging a write to an entry that only the log protects is fixed without the
    lock, and logged."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    cpu.write(A_PAGE, 1)
    vm.log_dirty(0, True)
    before = cpu.stat["pf_fast"]
    cpu.write(A_PAGE, 2)
    assert cpu.stat["pf_fast"] == before + 1
    assert vm.dirty_log(0) == [A_PAGE >> 12]


def test_fast_page_fault_is_for_direct_maps_only(machine):
    """Row "fast page fault": indirect never."""
    _vm, g = logged(machine)
    g.cpu.write(GVA, 2)
    assert g.cpu.stat["pf_fast"] == 0


def test_unsync_table_under_a_dirty_log(machine):
    """A lagging page table in a logged slot: the log sees the guest's writes to it, sync sees its entries."""
    vm = machine()
    g = Guest(vm)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    g.map(GVA, A_PAGE)
    entry = g.alias(g.entry(GVA))
    g.start()
    g.cpu.read(GVA)
    vm.log_dirty(0, True)
    g.cpu.write(entry, B_PAGE | PAGE)
    assert g.table(GVA) >> 12 in vm.dirty_log(0)
    assert pages(vm, g.table(GVA))[0].unsync
    g.cpu.set_cr3(g.cpu.cr3)
    assert g.cpu.read(GVA) == NEW
    g.cpu.write(entry, A_PAGE | PAGE)
    assert g.table(GVA) >> 12 in vm.dirty_log(0)
