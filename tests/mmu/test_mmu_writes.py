# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated writes to guest page tables: flooding, misaligned writes, 4-byte entries and quadrants.

Expectations: dossier 2.3 rows "write flooding" and "misaligned writes", 3.10; quadrants 1.4 ("level 1: bit 21 of gva;
level 2: bits 31:30"); SDM vol. 3, 4.3.
"""

import pytest
from guest_tables import PAGE, PS, TABLE, Guest, P, pages

from shadowmmu.state import interpreted
from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, calls

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000
MEG2 = 2 << 20


def tracked(machine, mode="level4"):
    """A running guest with two pages under one directory, and a mapping of that directory."""
    vm = machine()
    g = Guest(vm, mode)
    g.map(GVA, A_PAGE)
    g.map(GVA + 2 * MEG2, B_PAGE)
    directory = g.table(GVA, 2)
    alias = g.alias(directory)
    g.fill(A_PAGE, 0xAA)
    g.fill(B_PAGE, 0xBB)
    g.start()
    g.cpu.read(GVA)
    g.cpu.read(GVA + 2 * MEG2)
    return vm, g, directory, alias


def test_third_write_zaps(machine):
    """Row "write flooding", threshold 3: two emulated writes without use in between, the third zaps the page."""
    vm, g, directory, alias = tracked(machine)
    last = alias + 511 * 8
    for n in (1, 2):
        g.cpu.write(last, 0)
        assert len(pages(vm, directory)) == 1
        assert pages(vm, directory)[0].write_flooding_count == n
    assert vm.stat["mmu_flooded"] == 0
    g.cpu.write(last, 0)
    assert pages(vm, directory) == []
    assert vm.stat["mmu_flooded"] == 1
    assert vm.stat["mmu_pte_write"] == 3
    # no longer shadowed: the CPU writes by itself now
    g.cpu.write(last, 0)
    g.cpu.write(last, 0)
    assert vm.stat["mmu_pte_write"] == 3
    assert g.cpu.read(GVA) == 0xAA


def test_use_resets_the_count(machine):
    """Counter reset on a walk through the page: a fault below it."""
    vm, g, directory, alias = tracked(machine)
    last = alias + 511 * 8
    for n in range(6):
        g.map(GVA + 0x20000 + 0x8000 * n, A_PAGE)
        g.cpu.write(last, 0)
        g.cpu.read(GVA + 0x20000 + 0x8000 * n)
        assert pages(vm, directory)[0].write_flooding_count == 0
    assert vm.stat["mmu_flooded"] == 0


def test_leaf_tables_are_not_flooded(machine):
    """detect_write_flooding: a level-1 page becomes unsync instead; any number of writes is free."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    entry = g.alias(g.entry(GVA) + 8)
    g.start()
    g.cpu.read(GVA)
    for _ in range(6):
        g.cpu.write(entry, 0)
    assert vm.stat["mmu_pte_write"] == vm.stat["mmu_flooded"] == 0
    assert len(pages(vm, g.table(GVA))) == 1


@pytest.mark.parametrize("offset, size, zaps", [
    (0, 8, False), (0, 4, False), (4, 4, False), (0, 1, False),      # whole, halves, one byte at the start
    (1, 1, True), (0, 2, True), (6, 2, True), (4, 8, True), (2, 4, False), (6, 4, True),
])
def test_misaligned_writes(machine, offset, size, zaps):
    """Row "misaligned writes": zap if the write crosses an entry or is below 4 bytes, except one byte at the entry's
    start.  A 4-byte write under PAE counts as its whole 8-byte entry (3.10)."""
    vm, g, directory, alias = tracked(machine)
    g.cpu.write(alias + 8 * 100 + offset, 0, size)
    # 4 bytes at offset 2 or 6: 3.10 rounds gpa down to 8 first, so nothing is crossed
    expected = zaps and size != 4
    assert (pages(vm, directory) == []) == expected
    assert vm.stat["mmu_flooded"] == expected


def test_write_replaces_exactly_its_entry(machine):
    """3.10: the written entry's spte is zapped, its neighbours stay; the next access uses the new entry."""
    vm, g, directory, alias = tracked(machine)
    other = g.get(g.entry(GVA + 2 * MEG2, 2))
    before = pages(vm, directory)[0].sptes
    g.cpu.write(alias + g.index(GVA, 2) * 8, other)
    after = pages(vm, directory)[0].sptes
    assert set(before) - set(after) == {g.index(GVA, 2)}
    assert vm.stat["mmu_pde_zapped"] == 1
    assert g.cpu.read(GVA) == 0xBB


def test_zero_write_is_not_a_pde_zap(machine):
    """2.4: pde_zapped counts only when the new entry is not zero."""
    vm, g, _directory, alias = tracked(machine)
    g.cpu.write(alias + g.index(GVA, 2) * 8, 0)
    assert vm.stat["mmu_pde_zapped"] == 0
    with pytest.raises(GuestFault):
        g.cpu.read(GVA)


def test_half_of_an_entry(machine):
    """3.10: a 32-bit PAE guest writes an entry in two halves; after each, the shadow follows memory."""
    _vm, g, _directory, alias = tracked(machine, "pae")
    at = alias + g.index(GVA, 2) * 8
    other = g.get(g.entry(GVA + 2 * MEG2, 2))
    g.cpu.write(at, 0, 4)
    with pytest.raises(GuestFault):
        g.cpu.read(GVA)
    g.cpu.write(at + 4, other >> 32, 4)
    g.cpu.write(at, other & 0xFFFFFFFF, 4)
    assert g.cpu.read(GVA) == 0xBB


# ---- 4-byte entries

MEG4 = 4 << 20


def test_page_table_quadrants(machine):
    """1.4: a 1024-entry page table is shadowed by two pages, selected by bit 21 of the address."""
    vm = machine()
    g = Guest(vm, "bits32")
    gvas = [MEG4 * 5 + 0x3000, MEG4 * 5 + MEG2 + 0x3000]
    for k, gva in enumerate(gvas):
        g.map(gva, A_PAGE + 0x1000 * k)
        g.fill(A_PAGE + 0x1000 * k, 0x50 + k)
    g.start()
    for k, gva in enumerate(gvas):
        assert g.cpu.read(gva, 4) == 0x50 + k
    found = {(sp.role >> 5) & 3: sp for sp in pages(vm, g.table(gvas[0]))}
    assert set(found) == {0, 1}
    assert all(sp.role & 0x10 and sp.level == 1 for sp in found.values())
    assert [sp.sptes[3] >> 12 & 1 for _, sp in sorted(found.items())] == [0, 1]


@pytest.mark.parametrize("half", [0, 1])
def test_page_table_write_reaches_its_quadrant(machine, half):
    """3.10: offset * 2, bit 12 of it is the quadrant.  The write is emulated because the page is also a directory."""
    vm = machine()
    g = Guest(vm, "bits32")
    gvas = [MEG4 * 5 + 0x3000, MEG4 * 5 + MEG2 + 0x3000]
    for gva in gvas:
        g.map(gva, A_PAGE)
    g.fill(A_PAGE, 0xAA)
    g.fill(B_PAGE, 0xBB)
    table = g.table(gvas[0])
    entry = g.alias(g.entry(gvas[half]))
    g.start()
    for gva in gvas:
        g.cpu.read(gva, 4)
    # natively: unsync, then MOV CR3 rereads the right half
    g.cpu.write(entry, B_PAGE | PAGE, 4)
    g.cpu.set_cr3(g.cpu.cr3)
    assert [g.cpu.read(gva, 4) for gva in gvas] == [0xBB if k == half else 0xAA for k in range(2)]
    # emulated: track_write zaps one entry of one of the two pages
    before = {(sp.role >> 5) & 3: set(sp.sptes) for sp in pages(vm, table)}
    calls.track_write(vm.handle, 0, g.entry(gvas[half]), 4)
    after = {(sp.role >> 5) & 3: set(sp.sptes) for sp in pages(vm, table)}
    assert before[half] - after[half] == {3}
    assert before[1 - half] == after[1 - half]


@pytest.mark.parametrize("quarter", range(4))
def test_directory_write_zaps_two_entries_of_one_quadrant(machine, quarter):
    """3.10: a 4-byte PDE covers 4M, two 2M entries of the PAE directory of its quarter (bits 31:30)."""
    vm = machine()
    g = Guest(vm, "bits32")
    gva = quarter << 30 | MEG4 * 9
    for half in (0, MEG2):
        g.map(gva + half, A_PAGE)
    g.fill(A_PAGE, 0xAA)
    g.fill(B_PAGE, 0xBB)
    pde = g.entry(gva, 2)
    alias = g.alias(pde)
    g.start()
    for half in (0, MEG2):
        assert g.cpu.read(gva + half, 4) == 0xAA
    g.cpu.read(alias, 4)
    before = {(sp.role >> 5) & 3: set(sp.sptes) for sp in pages(vm, g.root)}
    assert {18, 19} <= before[quarter]
    g.cpu.write(alias, g.get(pde) & ~2, 4)
    after = {(sp.role >> 5) & 3: set(sp.sptes) for sp in pages(vm, g.root)}
    assert before[quarter] - after[quarter] == {18, 19}
    assert all(before[q] == after[q] for q in range(4) if q != quarter)
    # every quadrant's page counts the write for flooding
    with pytest.raises(GuestFault):
        g.cpu.write(gva, 1, 4)
    assert g.cpu.read(gva, 4) == 0xAA


def test_4m_page_is_two_2m_entries(machine):
    """2.3, row "large pages": a 4M page needs two shadow entries (direct tables when the host has 4K pages only)."""
    vm = machine()
    g = Guest(vm, "bits32")
    gva = MEG4 * 3
    g.put(g.entry(gva, 2), MEG4 | PAGE | PS)
    g.fill(MEG4 + 0x5000, 0x11)
    g.fill(MEG4 + MEG2 + 0x5000, 0x22)
    g.start()
    assert g.cpu.read(gva + 0x5000, 4) == 0x11
    assert g.cpu.read(gva + MEG2 + 0x5000, 4) == 0x22
    direct = [sp for sp in vm.shadow_pages if sp.direct]
    assert {sp.gfn for sp in direct} == {MEG4 >> 12, (MEG4 + MEG2) >> 12}
    assert {(sp.role >> 5) & 3 for sp in direct} == {0, 1}


def test_pse36(machine):
    """SDM vol. 3, 4.3, table 4-4: bits 16:13 of a 4M PDE are address bits 35:32."""
    vm = machine(0, config=Config())
    high = 1 << 32
    vm.add_memslot(0, 0, 8 << 20, 0)
    vm.add_memslot(1, high, 4 << 20, 8 << 20)
    g = Guest(vm, "bits32")
    gva = MEG4 * 3
    g.put(g.entry(gva, 2), 1 << 13 | PAGE | PS)
    vm.write_gpa(high + 0x123000, b"\x66")
    g.start()
    assert g.cpu.read(gva + 0x123000, 1) == 0x66


def test_bit_7_without_pse_is_no_leaf(machine):
    """SDM vol. 3, 4.3: with CR4.PSE=0 bit 7 of a PDE is ignored."""
    vm = machine()
    g = Guest(vm, "bits32")
    g.cr4 = 0
    g.map(GVA, A_PAGE)
    g.put(g.entry(GVA, 2), g.get(g.entry(GVA, 2)) | PS)
    g.fill(A_PAGE, 0xAA)
    g.start()
    assert g.cpu.read(GVA, 4) == 0xAA


def test_nothing_is_tracked_without_indirect_pages(machine):
    """3.10: indirect_shadow_pages == 0 returns at once."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    cpu.read(0x1000)
    calls.track_write(vm.handle, 0, 0x1000, 8)
    assert vm.stat["mmu_pte_write"] == 0
    assert vm.view.indirect_shadow_pages == 0
    assert interpreted.page(vm.view, vm.shadow_pages[0].id).write_flooding_count == 0


def test_write_to_the_table_that_translates_it(machine):
    """3.1, step 5 and E6: the guest writes the page directory through a page which that directory maps (recursive
    mapping, as several systems do)."""
    vm = machine()
    g = Guest(vm)
    # entry 511 of the PML4 points to the PML4 itself
    g.put(g.root + 511 * 8, g.root | TABLE)
    g.map(GVA, A_PAGE)
    g.fill(A_PAGE, 0xAA)
    g.fill(B_PAGE, 0xBB)
    g.start()
    assert g.cpu.read(GVA) == 0xAA
    pte_window = -(1 << 39) & (1 << 64) - 1
    pte = pte_window + (GVA >> 12) * 8
    g.put(g.entry(GVA), g.get(g.entry(GVA)) | 0x40)
    assert g.cpu.read(pte) == g.get(g.entry(GVA))
    g.cpu.write(pte, B_PAGE | PAGE)
    g.cpu.invlpg(GVA)
    assert g.cpu.read(GVA) == 0xBB
    # and the PML4 entry of a new address, through the recursive slot
    pml4e = pte_window | 511 << 30 | 511 << 21 | 511 << 12
    g.cpu.write(pml4e + 8 * 9, g.get(g.root) & ~P)
    with pytest.raises(GuestFault):
        g.cpu.read(9 << 39 | GVA)
    g.cpu.write(pml4e + 8 * 9, g.get(g.root))
    assert g.cpu.read(9 << 39 | GVA) == 0xBB
