# SPDX-License-Identifier: GPL-2.0-or-later
"""Control registers, PCIDs, INVPCID, SMM, INIT, CPUID: faults and the scenarios of dossier 4 B and C.

Expectations: SDM vol. 3 2.5, 4.10; SDM vol. 2 MOV CR and INVPCID; dossier 3.12 and the rows named at each test.
"""

import pytest
from guest_tables import CR0, NEW, NOFLUSH, NX, OLD, PAGE, Guest, P, U, W, pages, unsync

from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, VmError
from shadowmmu.x86 import bits as b

GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000


def running(machine, mode="level4", cr4=0, **options):
    """A guest with PCIDs allowed, running."""
    vm = machine(**options)
    vm.vcpus[0].set_cpuid(pcid=True)
    g = Guest(vm, mode)
    g.start(cr4=cr4)
    return vm, g, g.cpu


# ---- #GP

@pytest.mark.parametrize("mode, act", [
    ("level4", lambda cpu: cpu.set_cr0(cpu.cr0 & ~b.CR0_PG)),                       # 64-bit code segment
    ("level4", lambda cpu: cpu.set_cr0(cpu.cr0 & ~b.CR0_PE)),                       # PG without PE
    ("level4", lambda cpu: cpu.set_cr0(cpu.cr0 | b.CR0_NW)),                        # NW without CD
    ("level4", lambda cpu: cpu.set_cr0(cpu.cr0 | 1 << 32)),                         # bits 63:32
    ("level4", lambda cpu: cpu.set_cr4(cpu.cr4 & ~b.CR4_PAE)),                      # PAE in long mode
    ("level4", lambda cpu: cpu.set_cr4(cpu.cr4 | b.CR4_LA57)),                      # LA57 in long mode
    ("level4", lambda cpu: cpu.set_cr4(cpu.cr4 | 1 << 15)),                         # reserved
    ("level4", lambda cpu: cpu.set_efer(cpu.efer & ~b.EFER_LME)),                   # LME with PG=1
    ("level4", lambda cpu: cpu.set_efer(cpu.efer | 1 << 9)),                        # reserved
    ("level4", lambda cpu: cpu.set_cr3(cpu.cr3 | NOFLUSH)),                         # bit 63 without PCIDE (B6)
    ("level4", lambda cpu: cpu.set_cr3(cpu.cr3 | 1 << 45)),                         # beyond MAXPHYADDR 40
    ("pae", lambda cpu: cpu.set_cr4(cpu.cr4 | b.CR4_PCIDE)),                        # PCIDE outside long mode
    ("bits32", lambda cpu: cpu.set_efer(b.EFER_LME)),                               # LME with PG=1
])
def test_general_protection(machine, mode, act):
    """SDM vol. 2, MOV to control registers; SDM vol. 3, 2.5 and 4.1; nothing changes when the instruction faults."""
    _vm, _g, cpu = running(machine, mode)
    before = cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer
    with pytest.raises(GuestFault) as fault:
        act(cpu)
    assert (fault.value.vector, fault.value.error_code) == (b.GP, 0)
    assert (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) == before


def test_pcide_needs_pcid_0_in_cr3(machine):
    """SDM vol. 3, 4.10.1: CR4.PCIDE 0->1 with CR3[11:0] != 0 is #GP."""
    _vm, g, cpu = running(machine)
    cpu.set_cr3(g.root | 0x18)
    with pytest.raises(GuestFault):
        cpu.set_cr4(cpu.cr4 | b.CR4_PCIDE)
    cpu.set_cr3(g.root)
    cpu.set_cr4(cpu.cr4 | b.CR4_PCIDE)


def test_paging_off_needs_pcide_off(machine):
    """SDM vol. 2, MOV CR0: PG 1->0 with PCIDE=1 is #GP (compatibility mode, so cs.l is not the reason)."""
    _vm, _g, cpu = running(machine, cr4=b.CR4_PCIDE)
    cpu.record.cs_l = 0
    with pytest.raises(GuestFault):
        cpu.set_cr0(cpu.cr0 & ~b.CR0_PG)
    cpu.set_cr4(cpu.cr4 & ~b.CR4_PCIDE)
    cpu.set_cr0(cpu.cr0 & ~b.CR0_PG)
    assert not cpu.efer & b.EFER_LMA


def test_invalid_pdptes(machine):
    """SDM vol. 3, 4.4.1: MOV CR3 with PAE paging and a PDPTE with a reserved bit is #GP; CR3 keeps its value."""
    _vm, g, cpu = running(machine, "pae")
    g.map(GVA, A_PAGE)
    cpu.set_cr3(g.root)
    bad = g.page()
    g.put(bad, g.table(GVA, 2) | P | W)
    with pytest.raises(GuestFault):
        cpu.set_cr3(bad)
    assert cpu.cr3 == g.root
    cpu.read(GVA)


@pytest.mark.parametrize("bad", [{"cr4": 0}, {"efer": b.EFER_LME}, {"cr3": 1 << 50}, {"efer": b.EFER_LMA}])
def test_set_sregs_refuses_impossible_states(machine, bad):
    """kvm_is_valid_sregs: long mode needs PAE, LMA and a legal CR3; LMA needs LME and PG."""
    _vm, g, cpu = running(machine)
    with pytest.raises(VmError):
        cpu.set_sregs(**{"cr0": CR0, "cr3": g.root, "cr4": b.CR4_PAE, "efer": 0xD00} | bad)


# ---- INVPCID

@pytest.mark.parametrize("kind, pcid, gva", [
    (4, 0, 0), (-1, 0, 0), (0, 0x1000, 0), (1, 0x1000, 0), (2, 0x1000, 0), (3, 0x1000, 0),
    (0, 1, 0), (1, 1, 0), (0, 0, 1 << 47), (0, 0, 0xFFFF_0000_0000_0000),
])
def test_invpcid_faults_without_pcide(machine, kind, pcid, gva):
    """SDM vol. 2, INVPCID: #GP for a type above 3, bits 63:12 set, PCID != 0 with PCIDE=0 (types 0, 1), non-canonical
    address (type 0)."""
    _vm, _g, cpu = running(machine)
    with pytest.raises(GuestFault) as fault:
        cpu.invpcid(kind, pcid, gva)
    assert fault.value.vector == b.GP


@pytest.mark.parametrize("kind, pcid, gva", [(0, 0, GVA), (0, 0, (1 << 47) - 1), (0, 0, 0xFFFF_8000_0000_0000),
                                             (1, 0, 1 << 47), (2, 0xFFF, 1 << 47), (3, 0xFFF, 1 << 47)])
def test_invpcid_succeeds_without_pcide(machine, kind, pcid, gva):
    """The same conditions, not met; types 1 to 3 do not look at the address."""
    _vm, _g, cpu = running(machine)
    cpu.invpcid(kind, pcid, gva)


def test_invpcid_without_paging(machine):
    """B9, 9f46c187e2e6, CVE-2022-1789: INVPCID with CR0.PG=0 must not crash."""
    vm = machine()
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    cpu.read(0x1000)
    for kind in range(4):
        cpu.invpcid(kind, 0, 0x1000)
        cpu.invlpg(0x1000)
        cpu.read(0x1000)


def test_invpcid_address_leaves_other_addresses_alone(machine):
    """Type 0 promises one address; the page table stays unsync (dossier 3.12)."""
    vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    table = unsync(g, GVA, A_PAGE, B_PAGE)
    cpu.invpcid(0, 0, GVA)
    assert cpu.read(GVA) == NEW
    assert any(sp.unsync for sp in pages(vm, table))


# ---- PCIDs: B1, B4 and relatives

def two_spaces(g, pcid_b):
    """Roots a (g.root) and b, each with GVA and the alias of b's page table: (root b, table, entry's gva)."""
    root_b = g.page()
    g.map(GVA, A_PAGE)
    g.map(GVA, A_PAGE, root=root_b)
    table = g.table(GVA, root=root_b)
    g.fill(A_PAGE, OLD)
    g.fill(B_PAGE, NEW)
    here = g.alias(table)
    assert here == g.alias(table, root=root_b)
    return root_b, table, here


def dirty_b(g, root_b, pcid, table, entry):
    """b runs once, then its page table is made to lag while b is only a previous root."""
    cpu = g.cpu
    cpu.set_cr3(root_b | pcid)
    assert cpu.read(GVA) == OLD
    cpu.write(entry + 0xFF8, 0)
    cpu.write(entry, B_PAGE | PAGE)
    assert any(sp.unsync for sp in pages(g.vm, table))


def test_b1_flush_reaches_every_root_of_the_pcid(machine):
    """B1, 21823fbda552: PCID 5 is used by two PGDs; MOV CR3 to one with a flush must flush the other one, too."""
    _vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    root_b, table, entry = two_spaces(g, 5)
    dirty_b(g, root_b, 5, table, entry)
    cpu.set_cr3(g.root | 5)
    cpu.read(GVA)
    cpu.set_cr3(root_b | 5 | NOFLUSH)
    assert cpu.read(GVA) == NEW


def test_other_pcids_keep_their_roots(machine):
    """The counterpart of B1: a flushing MOV CR3 of another PCID leaves the cached root of PCID 5 in the cache, and a
    NOFLUSH return to it hits."""
    vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    root_b, _table, _entry = two_spaces(g, 5)
    cpu.set_cr3(root_b | 5)
    cpu.read(GVA)
    cpu.set_cr3(g.root | 6)
    cpu.read(GVA)
    assert any(r.pgd == root_b | 5 and r.hpa is not None for r in cpu.prev_roots)
    hits, misses = vm.stat["root_hit"], vm.stat["mmu_cache_miss"]
    cpu.set_cr3(root_b | 5 | NOFLUSH)
    assert vm.stat["root_hit"] == hits + 1
    assert cpu.read(GVA) == OLD
    assert vm.stat["mmu_cache_miss"] == misses


def test_b4_pcide_0_to_1_forgets_previous_roots(machine):
    """B4, 509bfe3d9796: PCIDE=0, cr3_b is cached and lags; INVPCID single; PCIDE=1; MOV CR3 b, PCID 0, NOFLUSH."""
    _vm, g, cpu = running(machine, cr4=b.CR4_PGE)
    root_b, table, entry = two_spaces(g, 0)
    dirty_b(g, root_b, 0, table, entry)
    cpu.set_cr3(g.root)
    cpu.read(GVA)
    assert any(r.pgd == root_b and r.hpa is not None for r in cpu.prev_roots)
    cpu.invpcid(1, 0)
    cpu.set_cr4(cpu.cr4 | b.CR4_PCIDE)
    assert all(r.hpa is None for r in [cpu.root, *cpu.prev_roots])
    cpu.set_cr3(root_b | NOFLUSH)
    assert cpu.read(GVA) == NEW


def test_pcide_1_to_0_flushes_all_pcids(machine):
    """Dossier 1.2 row "PCIDE 1->0" and SDM 4.10.4.1; then 0->1 again and NOFLUSH (reviewer's point 3)."""
    _vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    root_b, table, entry = two_spaces(g, 5)
    dirty_b(g, root_b, 5, table, entry)
    cpu.set_cr3(g.root)
    cpu.set_cr4(cpu.cr4 & ~b.CR4_PCIDE)
    cpu.read(GVA)
    cpu.set_cr4(cpu.cr4 | b.CR4_PCIDE)
    cpu.set_cr3(root_b | 5 | NOFLUSH)
    assert cpu.read(GVA) == NEW


def test_pg_off_and_on_with_a_cached_root(machine):
    """Reviewer's point 2 of seed 002: modify the tables of cached cr3_b; PG 1->0->1; MOV CR3 b: nothing stale."""
    _vm, g, cpu = running(machine, "bits32")
    root_b, _table, entry = two_spaces(g, 0)
    cpu.set_cr3(root_b)
    cpu.read(GVA)
    cpu.write(entry + 0xFFC, 0, 4)
    cpu.write(entry, B_PAGE | PAGE, 4)
    cpu.set_cr3(g.root)
    cpu.read(GVA)
    cpu.set_cr0(cpu.cr0 & ~b.CR0_PG)
    cpu.read(0x1000)
    cpu.set_cr0(cpu.cr0 | b.CR0_PG)
    cpu.set_cr3(root_b)
    assert cpu.read(GVA) == NEW


def test_without_pcids_the_cache_is_kept_over_cr3_writes(machine):
    """509bfe3d9796: with PCIDE=0 a MOV CR3 frees no previous root, but a switch back syncs."""
    _vm, g, cpu = running(machine)
    root_b, table, entry = two_spaces(g, 0)
    dirty_b(g, root_b, 0, table, entry)
    cpu.set_cr3(g.root)
    cpu.read(GVA)
    assert cpu.prev_roots[0].pgd == root_b
    cpu.set_cr3(root_b)
    assert cpu.read(GVA) == NEW


def test_hardware_root_carries_the_pcid(machine):
    """svm_load_mmu_pgd: the root that the CPU gets has the guest's PCID in its low bits."""
    _vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    g.map(GVA, A_PAGE)
    cpu.set_cr3(g.root | 7)
    cpu.read(GVA)
    assert cpu.record.hw_root == cpu.root.hpa | 7


# ---- INIT, SMM, CPUID

def test_init_in_long_mode(machine):
    """C23, 0aa1837533e5 and B11, df37ed38e6c2: after INIT the guest is unpaged; nothing of the old tables serves it."""
    vm, g, cpu = running(machine, cr4=b.CR4_PCIDE)
    unsync(g, GVA, A_PAGE, B_PAGE)
    cpu.init()
    assert (cpu.cr0 & (b.CR0_PE | b.CR0_PG | b.CR0_WP), cpu.cr3, cpu.cr4, cpu.efer) == (0, 0, 0, 0)
    assert cpu.read(A_PAGE) == OLD
    assert cpu.read(B_PAGE) == NEW
    assert all(sp.direct for sp in vm.shadow_pages if sp.root_count)
    g.start()
    assert cpu.read(GVA) == NEW


def test_init_keeps_the_cache_control_bits(machine):
    """SDM vol. 3, table 10-1 (INIT: CD and NW unchanged); kvm_vcpu_reset: new_cr0 |= old_cr0 & (NW | CD)."""
    _vm, _g, cpu = running(machine)
    cpu.set_cr0(cpu.cr0 | b.CR0_CD | b.CR0_NW)
    cpu.init()
    assert cpu.cr0 == b.CR0_ET | b.CR0_CD | b.CR0_NW


def test_smm_sees_its_own_memory(machine):
    """Dossier 2.3, row "SMM": address space 1 has its own slots; the same gpa is other memory there, and the pages made
    there have role.smm."""
    vm = machine(0, config=Config())
    vm.add_memslot(0, 0, 8 << 20, 0)
    vm.add_memslot(0, 0, 4 << 20, 0, as_id=1)
    vm.add_memslot(1, 4 << 20, 4 << 20, 8 << 20, as_id=1)
    g = Guest(vm)
    gpa = 0x500000
    g.map(GVA, gpa)
    g.start()
    g.fill(gpa, OLD)
    frame = (8 << 20) + gpa - (4 << 20)
    vm.store.ram()[frame:frame + 8] = NEW.to_bytes(8, "little")
    assert g.cpu.read(GVA) == OLD
    g.cpu.enter_smm()
    assert g.cpu.read(GVA) == NEW
    assert any(sp.role >> 24 for sp in vm.shadow_pages)
    g.cpu.leave_smm()
    assert g.cpu.read(GVA) == OLD
    assert {sp.role >> 24 for sp in vm.shadow_pages} == {0, 1}


def test_smm_does_not_reuse_outside_roots(machine):
    """Reviewer's point 1 of seed 002: RSM into a CR3 that was left unsync; roots of the two worlds never mix."""
    vm, g, cpu = running(machine)
    vm.add_memslot(9, 0, 16 << 20, 0, as_id=1)
    unsync(g, GVA, A_PAGE, B_PAGE)
    outside = cpu.root
    cpu.enter_smm()
    assert cpu.read(GVA) == NEW
    assert cpu.root.hpa != outside.hpa
    cpu.leave_smm()
    assert cpu.read(GVA) in (OLD, NEW)
    assert cpu.root.hpa == outside.hpa
    cpu.set_cr3(cpu.cr3)
    assert cpu.read(GVA) == NEW


def test_cpuid_changes_reserved_bits(machine):
    """C21, 49c6f8756cdf: MAXPHYADDR 40 -> 36, then an entry with bit 38 must fault with RSVD."""
    _vm, g, cpu = running(machine)
    g.map(GVA, A_PAGE)
    g.put(g.entry(GVA + 0x1000), A_PAGE | 1 << 38 | PAGE)
    cpu.read(GVA)
    cpu.set_cpuid(maxphyaddr=36)
    with pytest.raises(GuestFault) as fault:
        cpu.read(GVA + 0x1000)
    assert (fault.value.vector, fault.value.error_code) == (b.PF, 9)
    cpu.read(GVA)


def test_nx_is_reserved_while_efer_nx_is_off(machine):
    """SDM vol. 3, 4.6: bit 63 is reserved with EFER.NXE=0, no-execute with it.

    Each time in a table that was not shadowed before: KVM forces role.efer_nx (112022bdb5bc), so with NXE switched off
    a table shadowed earlier is found again and its no-execute entries stay present, where the architecture has a RSVD
    fault after the next flush.  That is the kernel's own deviation.
    """
    _vm, g, cpu = running(machine)
    g.map(GVA, A_PAGE, PAGE | NX)
    g.map(2 * GVA, A_PAGE, PAGE | NX)
    cpu.read(GVA)
    with pytest.raises(GuestFault) as fault:
        cpu.fetch(GVA)
    assert fault.value.error_code == 0x11
    cpu.set_efer(cpu.efer & ~b.EFER_NX)
    with pytest.raises(GuestFault) as fault:
        cpu.read(2 * GVA)
    assert fault.value.error_code == 9
    cpu.set_efer(cpu.efer | b.EFER_NX)
    cpu.read(2 * GVA)


@pytest.mark.parametrize("cr4, cpl, ac, access, error", [
    (b.CR4_SMEP, 0, False, "fetch", 0x11), (b.CR4_SMEP, 3, False, "fetch", None), (0, 0, False, "fetch", None),
    (b.CR4_SMAP, 0, False, "read", 1), (b.CR4_SMAP, 0, True, "read", None), (b.CR4_SMAP, 0, False, "write", 3),
    (b.CR4_SMAP, 3, False, "read", None), (b.CR4_SMAP, 0, False, "fetch", None),
])
def test_smep_and_smap_on_a_user_page(machine, cr4, cpl, ac, access, error):
    """SDM vol. 3, 4.6.1."""
    _vm, g, cpu = running(machine, cr4=cr4)
    g.map(GVA, A_PAGE)
    cpu.set_privilege(cpl, ac)
    act = {"fetch": lambda: cpu.fetch(GVA), "read": lambda: cpu.read(GVA), "write": lambda: cpu.write(GVA, 1)}[access]
    if error is None:
        act()
    else:
        with pytest.raises(GuestFault) as fault:
            act()
        assert (fault.value.vector, fault.value.error_code) == (b.PF, error)


@pytest.mark.parametrize("flags, cpl, write, error", [
    (P | W | U, 3, True, None), (P | U, 3, True, 7), (P | W, 3, False, 5), (P | W, 3, True, 7), (0, 3, False, 4),
    (0, 0, True, 2), (P, 0, True, 3), (P | W, 0, True, None), (P, 0, False, None),
])
@pytest.mark.parametrize("mode", ["bits32", "pae", "level4", "level5"])
def test_permissions_in_every_mode(machine, mode, flags, cpl, write, error):
    """SDM vol. 3, 4.6.1 and 4.7: who may do what, and the error code; CR0.WP=1."""
    _vm, g, cpu = running(machine, mode)
    g.map(GVA, A_PAGE, flags)
    g.map(GVA, A_PAGE, flags)
    if mode == "pae":
        cpu.set_cr3(cpu.cr3)              # the PDPTE registers
    cpu.set_privilege(cpl)
    if error is None:
        cpu.write(GVA, 1) if write else cpu.read(GVA)
        # 4.8: A always, D for a write, in the leaf
        assert g.get(g.entry(GVA)) & 0x60 == (0x60 if write else 0x20)
    else:
        with pytest.raises(GuestFault) as fault:
            cpu.write(GVA, 1) if write else cpu.read(GVA)
        assert (fault.value.error_code, fault.value.address, cpu.cr2) == (error, GVA, GVA)
        assert g.get(g.entry(GVA)) & 0x60 == 0
