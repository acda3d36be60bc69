# SPDX-License-Identifier: GPL-2.0-or-later
"""Building shadow tables: inherited permissions, CR0.WP=0, large pages, NX rule, five levels, the fixes of 2026.

Expectations: dossier 2.3 rows "large pages", "NX huge pages", 3.2 to 3.5, 4 A and C; SDM vol. 3, 4.5, 4.6.
"""

import pytest
from guest_tables import CR0, NEW, NX, OLD, PAGE, PS, TABLE, A, D, Guest, P, U, W, pages

from shadowmmu import rules as rule_sets
from shadowmmu.mmu import roles
from shadowmmu.state import interpreted
from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, VmError
from shadowmmu.x86 import bits as b

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000
MEG2, GIG = 2 << 20, 1 << 30


def host_with_large_pages(machine, level, *, memory=64 << 20, **options):
    """A machine whose host maps guest memory with pages of `level` (frames aligned alike)."""
    return machine(memory, config=Config(memory_pages=memory >> 12, host_level=level, **options.pop("config", {})),
                   **options)


def large_leaves(vm, level):
    """Present large sptes of a level: {(page id, index): spte}."""
    return {(sp.id, i): spte for sp in vm.shadow_pages if sp.level == level
            for i, spte in sp.sptes.items() if spte & 1 << 11 and spte & PS}


# ---- permissions

def test_permissions_of_all_levels_are_combined(machine):
    """SDM vol. 3, 4.6: W and U of every level ANDed, NX ORed: each level in turn takes one right away."""
    for level in (1, 2, 3, 4):
        for flag, act, error in ((W, "write", 7), (U, "read", 5), (NX, "fetch", 0x15)):
            vm = machine()
            g = Guest(vm)
            g.map(GVA, A_PAGE)
            entry = g.entry(GVA, level)
            g.put(entry, g.get(entry) ^ flag)
            g.start()
            g.cpu.set_privilege(3)
            if flag != U:
                g.cpu.read(GVA)
            with pytest.raises(GuestFault) as fault:
                {"write": lambda: g.cpu.write(GVA, 1), "read": lambda: g.cpu.read(GVA),
                 "fetch": lambda: g.cpu.fetch(GVA)}[act]()
            assert fault.value.error_code == error


def test_c1_inherited_permissions(machine):
    """C1, b1bd5cba3306, CVE-2021-38198: two PUDs (uw-, u--) share one PMD with entries u-- and uw-; read ptr1, write
    ptr2, read ptr3; the write through ptr4 must fault."""
    vm = machine()
    g = Guest(vm)
    ptr = [0, MEG2, GIG, GIG + MEG2]
    for k in (0, 1):
        g.map(ptr[k], A_PAGE + 0x1000 * k)
    pud = g.get(g.entry(0, 3))
    g.put(g.entry(ptr[2], 3), pud & ~W)
    for gva, flags in ((ptr[0], TABLE & ~W), (ptr[1], TABLE)):
        pmd = g.entry(gva, 2)
        g.put(pmd, g.get(pmd) & -4096 | flags)
    g.start()
    g.cpu.set_privilege(3)
    g.cpu.read(ptr[0])
    g.cpu.write(ptr[1], 1)
    g.cpu.read(ptr[2])
    with pytest.raises(GuestFault) as fault:
        g.cpu.write(ptr[3], 1)
    assert fault.value.error_code == 7


def test_c2_same_frame_with_two_accesses(machine):
    """C2, d28c6cfbbc5e: two 4M PDEs for one frame, one read-only: both work, no loop."""
    vm = machine()
    g = Guest(vm, "bits32")
    g.put(g.entry(GVA, 2), 0x400000 | PAGE | PS)
    g.put(g.entry(2 * GVA, 2), 0x400000 | PAGE & ~W | PS)
    g.start()
    for _ in range(2):
        g.cpu.write(GVA + 8, 5, 4)
        assert g.cpu.read(2 * GVA + 8, 4) == 5
        with pytest.raises(GuestFault):
            g.cpu.write(2 * GVA + 8, 6, 4)


def test_c3_clean_large_page(machine):
    """C3, 9e7b0e7fba45: read, then write through a clean 2M PDE that is split: D must be set by the write, and the
    direct table of the read must not be upgraded in place."""
    vm = machine()
    g = Guest(vm)
    pde = g.entry(GVA, 2)
    g.put(pde, A_PAGE | TABLE | PS)
    g.start()
    g.cpu.read(GVA)
    assert not g.get(pde) & D
    g.cpu.write(GVA, 1)
    assert g.get(pde) & D
    assert {(sp.role & roles.ACCESS) >> roles.ACCESS_SHIFT for sp in vm.shadow_pages if sp.direct} == {5, 7}


# ---- CR0.WP = 0

def test_supervisor_writes_read_only_pages_without_wp(machine):
    """3.2, step 5; SDM 4.6.1: with WP=0 the supervisor may write, the user still may not even after that."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~W)
    g.start(cr0=CR0 & ~b.CR0_WP)
    g.cpu.write(GVA, 0x12)
    for cpl, write in ((3, False), (0, True), (3, False)):
        g.cpu.set_privilege(cpl)
        if write:
            g.cpu.write(GVA, 0x13)
        else:
            g.cpu.read(GVA)
    g.cpu.set_privilege(3)
    with pytest.raises(GuestFault) as fault:
        g.cpu.write(GVA, 1)
    assert fault.value.error_code == 7


def test_c4_wp_set_again(machine):
    """C4, 3dbe141595fa: the spte made with WP=0 must not serve with WP=1."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~W)
    g.start(cr0=CR0 & ~b.CR0_WP)
    g.cpu.write(GVA, 1)
    g.cpu.set_cr0(g.cpu.cr0 | b.CR0_WP)
    with pytest.raises(GuestFault) as fault:
        g.cpu.write(GVA, 2)
    assert fault.value.error_code == 3
    g.cpu.set_cr0(g.cpu.cr0 & ~b.CR0_WP)
    g.cpu.write(GVA, 3)


@pytest.mark.parametrize("nxe", [True, False])
@pytest.mark.parametrize("rules", ["linux-6.12", "linux-7.2"])
def test_smep_with_wp_off(machine, nxe, rules):
    """C5, C7, 844a5fe219cf: a user page that became a supervisor page for a WP=0 write must not become executable for
    the supervisor under SMEP, with EFER.NX off as well."""
    vm = machine(rules=rules)
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~W)
    if not nxe:
        g.efer &= ~b.EFER_NX
    g.start(cr0=CR0 & ~b.CR0_WP, cr4=b.CR4_SMEP)
    for _ in range(2):
        g.cpu.write(GVA, 1)
        with pytest.raises(GuestFault) as fault:
            g.cpu.fetch(GVA)
        assert fault.value.error_code == 0x11
        g.cpu.set_privilege(3)
        g.cpu.fetch(GVA)
        g.cpu.set_privilege(0)


def test_c6_smap_after_wp_off_write(machine):
    """C6, 0be0226f07d1: a user page converted by a WP=0 write; then SMAP=1: a supervisor read must fault."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~W)
    g.start(cr0=CR0 & ~b.CR0_WP)
    g.cpu.write(GVA, 1)
    g.cpu.set_cr4(g.cpu.cr4 | b.CR4_SMAP)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert fault.value.error_code == 1
    g.cpu.set_privilege(0, ac=True)
    g.cpu.read(GVA)


# ---- large pages

@pytest.mark.parametrize("host, guest, expected", [(1, 2, 1), (2, 1, 1), (2, 2, 2), (2, 3, 2), (3, 2, 2), (1, 3, 1)])
def test_size_is_the_smallest_of_guest_and_host(machine, host, guest, expected):
    """2.3, row "large pages": goal level = min(guest's, host's)."""
    vm = host_with_large_pages(machine, host)
    g = Guest(vm)
    # the slot ends inside the guest's 1G page
    gpa = 48 << 20
    g.put(g.entry(5 * GIG + gpa, guest), gpa & -(1 << 12 + 9 * (guest - 1)) | PAGE | (PS if guest > 1 else 0))
    g.fill(gpa + 0x500, 0x99)
    g.start()
    assert g.cpu.read(5 * GIG + gpa + 0x500) == 0x99
    stat = [vm.stat[name] for name in ("pages_4k", "pages_2m", "pages_1g")]
    assert [bool(n) for n in stat] == [level == expected for level in (1, 2, 3)]


def test_1g_needs_the_host(machine):
    """2.2: 1G only where the host has such pages (rules.max_huge_page_level)."""
    values = rule_sets.RULES["linux-6.12"] | {"max_huge_page_level": 2}
    for rules, level in (("linux-6.12", 3), (values, 2)):
        vm = machine(0, rules=rules, config=Config(memory_pages=(GIG >> 12) + 512, slot_pages=(GIG >> 12) + 512,
                                                   host_level=3))
        vm.add_memslot(0, GIG, GIG, 0)
        vm.add_memslot(1, 0, MEG2, GIG)
        g = Guest(vm)
        g.put(g.entry(GIG, 3), GIG | PAGE | PS)
        g.start()
        g.cpu.read(GIG + 0x12345678 & -8)
        assert [vm.stat[name] for name in ("pages_4k", "pages_2m", "pages_1g")] == [0, level == 2, level == 3]


def test_4m_on_a_2m_host(machine):
    """A 4M page becomes two 2M sptes."""
    vm = host_with_large_pages(machine, 2)
    g = Guest(vm, "bits32")
    g.put(g.entry(8 << 20, 2), 8 << 20 | PAGE | PS)
    g.fill((8 << 20) + 0x1000, 1)
    g.fill((8 << 20) + MEG2 + 0x1000, 2)
    g.start()
    assert g.cpu.read((8 << 20) + 0x1000, 4) == 1
    assert vm.stat["pages_2m"] == 1
    assert g.cpu.read((8 << 20) + MEG2 + 0x1000, 4) == 2
    assert vm.stat["pages_2m"] == 2 and vm.stat["pages_4k"] == 0


def test_page_table_inside_a_large_page(machine):
    """Rows "write tracking", "large pages" (E7): a large page that contains a shadowed table is split; the table's page
    is mapped 4K and read-only, the neighbours are writable; disallow_lpage counts the tables."""
    vm = host_with_large_pages(machine, 2)
    g = Guest(vm)
    window = 16 << 20
    g.put(g.entry(window, 2), 0 | PAGE | PS)          # maps gpa 0..2M, where the tables are
    g.map(GVA, 32 << 20)
    g.start()
    g.cpu.read(window)
    g.cpu.write(window + 0x1000, 1)
    assert large_leaves(vm, 2) == {}
    slot = interpreted.slot(vm.view, 0)
    assert interpreted.meta2(vm.view, slot.meta2).disallow_lpage > 0
    # the root: write-tracked, so the write is emulated and seen
    before = vm.stat["mmu_pte_write"]
    g.cpu.write(window + g.root + 511 * 8, 0)
    assert vm.stat["mmu_pte_write"] == before + 1


def test_large_page_is_protected_when_a_table_appears_in_it(machine):
    """account_shadowed: a writable 2M spte exists; then a page inside it becomes a page table: no writable mapping may
    remain, and a guest write through the large page must reach the shadow."""
    vm = host_with_large_pages(machine, 2)
    g = Guest(vm)
    window, table = 16 << 20, 40 << 20
    g.put(g.entry(window, 2), table | PAGE | PS)
    g.fill(48 << 20, OLD)
    g.fill(49 << 20, NEW)
    g.start()
    g.cpu.write(window + 8 * g.index(GVA, 1), 48 << 20 | PAGE)
    assert len(large_leaves(vm, 2)) == 1
    g.put(g.entry(GVA, 2), table | TABLE)
    assert g.cpu.read(GVA) == OLD
    assert all(not spte & W for spte in large_leaves(vm, 2).values())
    g.cpu.write(window + 8 * g.index(GVA, 1), 49 << 20 | PAGE)
    assert pages(vm, table)[0].unsync
    g.cpu.invlpg(GVA)
    assert g.cpu.read(GVA) == NEW


def test_slot_edges_forbid_large_pages(machine):
    """Rows "large pages": fully inside the slot, gfn and hva aligned alike."""
    vm = machine(0, config=Config(memory_pages=16384, host_level=2))
    vm.add_memslot(0, 0, 8 << 20, 0)
    vm.add_memslot(1, (16 << 20) + 0x1000, (8 << 20) - 0x1000, (16 << 20) + 0x1000)
    vm.add_memslot(2, 32 << 20, 8 << 20, (24 << 20) + 0x1000)
    g = Guest(vm)
    for gpa in (16 << 20, 18 << 20, 32 << 20):
        g.put(g.entry(gpa, 2), gpa | PAGE | PS)
    g.start()
    for gpa, large in ((16 << 20, False), (18 << 20, True), (32 << 20, False)):
        before = vm.stat["pages_2m"]
        g.cpu.read(gpa + 0x5000)
        assert vm.stat["pages_2m"] - before == large


# ---- the iTLB multihit rule

def test_nx_huge_pages(machine):
    """Row "NX huge pages": a large spte is never executable; an exec fault splits it and lists the table; the split
    stays."""
    values = rule_sets.RULES["linux-6.12"] | {"nx_huge_pages": 1}
    vm = host_with_large_pages(machine, 2, rules=values)
    g = Guest(vm)
    g.put(g.entry(16 << 20, 2), 16 << 20 | PAGE | PS)
    g.start()
    g.cpu.write(16 << 20, 1)
    assert len(large_leaves(vm, 2)) == 1 and all(spte & NX for spte in large_leaves(vm, 2).values())
    assert vm.stat["nx_lpage_splits"] == 0
    g.cpu.fetch(16 << 20)
    assert large_leaves(vm, 2) == {}
    assert vm.stat["nx_lpage_splits"] == 1
    g.cpu.write((16 << 20) + 0x123000, 1)
    g.cpu.fetch((16 << 20) + 0x123000)
    assert large_leaves(vm, 2) == {} and vm.stat["nx_lpage_splits"] == 1


def test_without_the_nx_rule_large_pages_are_executable(machine):
    vm = host_with_large_pages(machine, 2)
    g = Guest(vm)
    g.put(g.entry(16 << 20, 2), 16 << 20 | PAGE | PS)
    g.start()
    g.cpu.fetch(16 << 20)
    assert len(large_leaves(vm, 2)) == 1 and vm.stat["nx_lpage_splits"] == 0


# ---- five levels

def test_five_levels(machine):
    """SDM vol. 3, 4.5: with LA57 bits 56:48 choose the PML5 entry; addresses are canonical to 57 bits."""
    vm = machine()
    g = Guest(vm, "level5")
    gva = 3 << 48 | 5 << 39 | GVA
    g.map(gva, A_PAGE)
    g.map(GVA, B_PAGE)
    g.fill(A_PAGE, 5)
    g.fill(B_PAGE, 4)
    g.start()
    assert g.cpu.read(gva) == 5
    assert g.cpu.read(GVA) == 4
    assert sorted({sp.level for sp in vm.shadow_pages}) == [1, 2, 3, 4, 5]
    assert pages(vm, g.root)[0].level == 5
    # canonical to 57 bits: INVLPG acts on it
    g.poke(gva, B_PAGE | PAGE)
    g.cpu.invlpg(gva)
    assert g.cpu.read(gva) == 4


# ---- the fixes of 2026

def test_a1_mmio_over_present(machine):
    """A1, CVE-2026-23401: userspace rewrites a gpte from RAM to a gfn without memory; the old spte must leave the rmap.
    (The prefetch or RSVD path writes the MMIO spte only when the entry faults: a write to a clean page.)"""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~D)
    g.start()
    g.cpu.read(GVA)
    assert vm.rmap(A_PAGE >> 12)
    g.put(g.entry(GVA), 0x10000000 | PAGE)
    with pytest.raises(Exception, match="MMIO"):
        g.cpu.write(GVA, 1)
    assert vm.rmap(A_PAGE >> 12) == []


def test_a2_other_frame_over_present(machine):
    """A2, CVE-2026-23402: the same, to another RAM page."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, A_PAGE, PAGE & ~D)
    g.start()
    g.cpu.read(GVA)
    g.put(g.entry(GVA), B_PAGE | PAGE)
    g.cpu.write(GVA, 0x33)
    assert vm.read_gpa(B_PAGE, 1) == b"\x33"
    assert vm.rmap(A_PAGE >> 12) == []
    assert len(vm.rmap(B_PAGE >> 12)) == 1


def test_a3_unexpected_gfn(machine):
    """A3, CVE-2026-46113: a 2M PDE for A (split by KVM) is changed from outside to 2M at B; an access to another page
    must not land in the direct table of A."""
    vm = machine()
    g = Guest(vm)
    pde = g.entry(GVA, 2)
    g.put(pde, A_PAGE | PAGE | PS)
    g.start()
    g.cpu.read(GVA)
    g.put(pde, 0xA00000 | PAGE | PS)
    g.fill(0xA20000, 0x44)
    assert g.cpu.read(GVA + 0x20000) == 0x44
    assert len(vm.rmap(0xA20)) == 1
    vm.delete_memslot(0)
    vm.add_memslot(0, 0, 16 << 20, 0)


def test_a4_unexpected_role(machine):
    """A4, CVE-2026-53359: the PDE changes from a 2M page at G to a page table at G."""
    vm = machine()
    g = Guest(vm)
    pde = g.entry(GVA, 2)
    g.put(pde, A_PAGE | PAGE | PS)
    g.fill(A_PAGE + 8 * 0x20, 0xA05000 | PAGE)
    g.fill(0xA05000, 0x45)
    g.start()
    g.cpu.read(GVA)
    g.put(pde, A_PAGE | TABLE)
    assert g.cpu.read(GVA + 0x20000) == 0x45
    assert {sp.direct for sp in vm.shadow_pages if sp.gfn == A_PAGE >> 12} == {True, False}


@pytest.mark.parametrize("rules, invariant", [("linux-6.12.0", "rmap_exact"), ("linux-6.12", None)])
def test_a3_is_found_by_the_invariants(machine, rules, invariant):
    """The unfixed kernel 6.12.0 violates I2 in A3's scenario; the invariants say so, and nothing for the fixed one."""
    from shadowmmu.checker import invariants
    vm = machine(rules=rules)
    g = Guest(vm)
    pde = g.entry(GVA, 2)
    g.put(pde, A_PAGE | PAGE | PS)
    g.start()
    g.cpu.read(GVA)
    g.put(pde, 0xA00000 | PAGE | PS)
    g.cpu.read(GVA + 0x20000)
    found = invariants.check_all(vm)
    if invariant is None:
        assert found == []
    else:
        machine.do_not_check(vm)
        assert any(text.startswith(invariant) for text in found)


def test_a7_write_tracking_in_all_address_spaces(machine):
    """A7, 0f38453cdb2e: an upper-level page made in SMM; a write from outside SMM to that gfn must not make it
    unsync."""
    vm = machine()
    vm.add_memslot(1, 0, 16 << 20, 0, as_id=1)
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    directory = g.table(GVA, 2)
    # outside SMM another root, in which the directory is plain data
    other = g.page()
    g.map(GVA, directory, root=other)
    g.start()
    g.cpu.enter_smm()
    g.cpu.read(GVA)
    g.cpu.set_cr3(other)
    g.cpu.leave_smm()
    g.cpu.write(GVA + 0xFF8, 0)
    assert all(not sp.unsync for sp in vm.shadow_pages if sp.level > 1)


def test_memory_that_the_reverse_map_cannot_name_is_refused(machine):
    """shadowed_translation keeps 28 bits of the gfn; a slot beyond must not lose its upper bits in silence."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, (1 << 40) - (1 << 20), 1 << 20, 0)
    with pytest.raises(VmError, match="above page 2\\^28 is not supported"):
        vm.add_memslot(1, 1 << 40, 1 << 20, 8 << 20)
    with pytest.raises(VmError, match="above page 2\\^28 is not supported"):
        vm.move_memslot(0, (1 << 40) - 4096)


def test_reserved_bits_beyond_maxphyaddr(machine):
    """SDM vol. 3, 4.4.2, 4.5.4: every level's entry with a bit at MAXPHYADDR or above faults with RSVD."""
    vm = machine()
    g = Guest(vm)
    for level in (1, 2, 3, 4):
        gva = GVA + (level << 39)
        g.map(gva, A_PAGE)
        entry = g.entry(gva, level)
        g.put(entry, g.get(entry) | 1 << 40)
    g.start()
    for level in (1, 2, 3, 4):
        with pytest.raises(GuestFault) as fault:
            g.cpu.read(GVA + (level << 39))
        assert fault.value.error_code == 9


def test_accessed_bits_of_all_levels(machine):
    """SDM vol. 3, 4.8: A is set in every entry used, D only in the leaf and only by a write."""
    vm = machine()
    g = Guest(vm)
    entries = [g.entry(GVA, level, flags=P | W | U) for level in (4, 3, 2, 1)]
    g.put(entries[3], A_PAGE | P | W | U)
    g.start()
    g.cpu.read(GVA)
    assert [g.get(e) & 0x60 for e in entries] == [A, A, A, A]
    g.cpu.write(GVA, 1)
    assert [g.get(e) & 0x60 for e in entries] == [A, A, A, A | D]


def test_missing_slot_in_the_middle_of_a_walk(machine):
    """3.3: a table outside memory ends the walk as not present."""
    vm = machine()
    g = Guest(vm)
    g.put(g.entry(GVA, 3), 0x20000000 | TABLE)
    g.start()
    with pytest.raises(GuestFault) as fault:
        g.cpu.write(GVA, 1)
    assert fault.value.error_code == 2


def test_unpaged_guest(machine):
    """PG=0: linear is physical; direct pages only; no write tracking."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    cpu.write(A_PAGE, 0x1234)
    assert vm.read_gpa(A_PAGE, 2) == b"\x34\x12"
    assert all(sp.direct for sp in vm.shadow_pages)
    assert vm.view.indirect_shadow_pages == 0
