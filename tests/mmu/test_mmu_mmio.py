# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses without memory: MMIO sptes, their generation, the per-vCPU cache.

Expectations: dossier 2.2 (bits of the generation), 2.3 row "MMIO sptes", 3.1 step 1, D11 (56f17dd3fbc4).
"""

import pytest
from guest_tables import PAGE, Guest, P, U, W

from shadowmmu.mmu import events
from shadowmmu.vm import GuestFault, VmError

GVA, HOLE = 0x400000, 0x10000000
MEG = 1 << 20


def touch(cpu, gva=GVA):
    with pytest.raises(VmError, match="MMIO"):
        cpu.read(gva)


def mmio_machine(machine, **options):
    vm = machine(8 * MEG, **options)
    g = Guest(vm)
    g.map(GVA, HOLE)
    g.start()
    return vm, g


def mmio_sptes(vm):
    return [spte for sp in vm.shadow_pages for spte in sp.sptes.values() if not spte & 1 << 11]


def kinds(vm):
    return [row[0] for row in vm.drain_events()]


def test_spte_of_an_mmio_page(machine):
    """2.2: value = bit 51 | P, access bits W and U, gpa in place, generation bits 0-7 at 3-10 and 8-18 at 52-62."""
    vm, g = mmio_machine(machine)
    touch(g.cpu)
    [spte] = mmio_sptes(vm)
    generation = vm.view.mmio_generation[0]
    assert spte == 1 << 51 | P | W | U | HOLE | (generation & 0xFF) << 3 | (generation >> 8) << 52
    assert g.cpu.stat["pf_mmio_spte_created"] == 1


def test_second_access_needs_no_walk(machine):
    """3.1: the fault with PFEC.RSVD is answered by the cache, or by the spte while its generation is current."""
    vm, g = mmio_machine(machine)
    touch(g.cpu)
    vm.drain_events()
    touch(g.cpu)
    assert events.PAGETABLE_WALK not in kinds(vm)[:3]
    # the cache holds another address now: the spte answers
    g.map(GVA + 0x1000, HOLE + 0x1000)
    touch(g.cpu, GVA + 0x1000)
    vm.drain_events()
    touch(g.cpu)
    rows = vm.drain_events()
    handled = [row for row in rows if row[0] == events.HANDLE_MMIO_PAGE_FAULT]
    assert [row[1:3] for row in handled] == [[GVA, HOLE >> 12]]
    checked = [row for row in rows if row[0] == events.CHECK_MMIO_SPTE]
    assert checked and checked[0][4] == 1


@pytest.mark.parametrize("warm", [True, False], ids=["cached", "spte only"])
def test_slot_appears(machine, warm):
    """D11, 56f17dd3fbc4: memory is added where MMIO was; the stale spte and the stale cache entry must not answer."""
    vm, g = mmio_machine(machine)
    touch(g.cpu)
    if not warm:
        g.map(GVA + 0x1000, HOLE + 0x1000)
        touch(g.cpu, GVA + 0x1000)
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG)
    vm.write_gpa(HOLE, b"\x5a")
    vm.drain_events()
    assert g.cpu.read(GVA, 1) == 0x5A
    stale = [row for row in vm.drain_events() if row[0] == events.CHECK_MMIO_SPTE]
    assert all(row[4] == 0 for row in stale)
    assert all(spte >> 12 & 0xFFFFF != HOLE >> 12 for spte in mmio_sptes(vm))


def test_slot_disappears(machine):
    """The other way round: memory goes, the next access is MMIO."""
    vm, g = mmio_machine(machine)
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG)
    g.cpu.read(GVA)
    vm.delete_memslot(1)
    touch(g.cpu)


def test_generation_wraps(machine):
    """2.2: 19 bits; when the part kept in sptes comes round to 0, everything is zapped (kvm_mmu_zap_all_fast)."""
    vm, g = mmio_machine(machine)
    vm.view.mmio_generation[0] = (1 << 19) - 2
    touch(g.cpu)
    pages = len(vm.shadow_pages)
    assert pages
    vm.drain_events()
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG)
    assert events.ZAP_ALL_FAST in kinds(vm)
    assert vm.shadow_pages == []
    assert not g.cpu.read(GVA)


def test_generations_are_per_address_space(machine):
    """A9 (CVE-2026-99082) and 2.2: slots of SMM changing does not make outside entries old, and the other way round."""
    vm, g = mmio_machine(machine)
    touch(g.cpu)
    before = list(vm.view.mmio_generation)
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG, as_id=1)
    assert vm.view.mmio_generation[0] == before[0]
    assert vm.view.mmio_generation[1] != before[1]
    assert (vm.view.mmio_generation[0] ^ vm.view.mmio_generation[1]) & 1
    vm.drain_events()
    touch(g.cpu)
    assert events.MARK_MMIO_SPTE not in kinds(vm)


def test_smm_cache_does_not_serve_outside(machine):
    """A9: MMIO in SMM at a gfn that is RAM outside: after RSM the access is RAM."""
    vm, g = mmio_machine(machine)
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG)
    vm.add_memslot(0, 0, 4 * MEG, 0, as_id=1)
    vm.write_gpa(HOLE, b"\x77")
    g.cpu.enter_smm()
    touch(g.cpu)
    g.cpu.leave_smm()
    assert g.cpu.read(GVA, 1) == 0x77


def test_sync_of_mmio_entries(machine):
    """3.8: at a sync an MMIO spte whose gpte names another gfn is cleared, else marked anew."""
    vm, g = mmio_machine(machine)
    entry = g.alias(g.entry(GVA))
    g.fill(0x600000, 0x61)
    touch(g.cpu)
    g.cpu.write(entry + 8, 0)
    g.cpu.write(entry, 0x600000 | PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    assert g.cpu.read(GVA) == 0x61
    g.cpu.write(entry, HOLE | PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    touch(g.cpu)
    g.cpu.write(entry, HOLE + 0x1000 | PAGE)
    g.cpu.set_cr3(g.cpu.cr3)
    g.cpu.read(entry)
    assert all(spte >> 12 & 0xFFFFF != HOLE >> 12 for spte in mmio_sptes(vm))
    touch(g.cpu)


def test_invlpg_forgets_the_cached_address(machine):
    """vcpu_clear_mmio_info: after INVLPG the cache must not answer for the old mapping."""
    _vm, g = mmio_machine(machine)
    g.fill(0x600000, 0x62)
    touch(g.cpu)
    g.put(g.entry(GVA), 0x600000 | PAGE)
    table = g.alias(g.entry(GVA))
    g.cpu.write(table + 8, 0)
    g.cpu.invlpg(GVA)
    assert g.cpu.record.mmio_gva == 0
    assert g.cpu.read(GVA) == 0x62


def test_mmio_permission_comes_from_the_guest(machine):
    """An MMIO page that the guest maps supervisor-only faults at CPL 3."""
    _vm, g = mmio_machine(machine)
    g.map(GVA, HOLE, PAGE & ~U)
    touch(g.cpu)
    g.cpu.set_privilege(3)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert fault.value.error_code == 5


def test_unpaged_mmio(machine):
    """Direct MMU: the gfn decides (mmio_info_in_cache)."""
    vm = machine(8 * MEG)
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    for _ in range(2):
        touch(cpu, HOLE)
        assert cpu.record.mmio_gfn == HOLE >> 12
    vm.add_memslot(1, HOLE, 0x1000, 4 * MEG)
    cpu.write(HOLE, 0x31)
    assert vm.read_gpa(4 * MEG, 1) == b"\x31"
