# SPDX-License-Identifier: GPL-2.0-or-later
"""L2 under shadow paging without an engine: the root cache across VMRUN and #VMEXIT, flushes, roles.

Expectations: seeds 000 (point g: 64-bit L1, PAE L2) and 003 as the dossier states them (1.0, 1.3), 3.11, 3.12 (SVM always
syncs and flushes), B2; recorded behaviour of golden-nested (README, "What KVM does" 1 and 2).
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "mmu"))
from guest_tables import CR0, MODES, Guest  # noqa: E402

from shadowmmu.checker import invariants  # noqa: E402
from shadowmmu.mmu import roles  # noqa: E402
from shadowmmu.vm import GuestHypervisor, NestedExit, Vm, VmError  # noqa: E402
from shadowmmu.x86 import bits as b  # noqa: E402

GVA, L1_PAGE, L2_PAGE = 0x400000, 0x800000, 0x900000
PF = 14


class Machine:
    """64-bit L1 with GVA mapped; L2 of any mode with the same GVA elsewhere."""

    def __init__(self, mode, rules="linux-6.12"):
        self.vm = Vm(16 << 20, rules=rules)
        self.cpu = self.vm.vcpus[0]
        self.l2 = GuestHypervisor(self.cpu)
        self.g1 = Guest(self.vm, "level4", first_gfn=0x100)
        self.g1.map(GVA, L1_PAGE)
        self.g2 = Guest(self.vm, mode, first_gfn=0x200)
        self.g2.map(GVA, L2_PAGE)
        self.vm.write_gpa(L1_PAGE, b"L1 data!")
        self.vm.write_gpa(L2_PAGE, b"L2 data!")
        self.g1.start(efer=b.EFER_SVME)
        self.mode = mode

    def vmrun(self, **more):
        _, _, _, cr4, efer = MODES[self.mode]
        self.l2.vmrun(cr0=CR0, cr3=more.pop("cr3", self.g2.root), cr4=cr4, efer=efer | b.EFER_SVME, **more)

    def read(self):
        return self.cpu.read(GVA).to_bytes(8, "little")

    def round_trip(self):
        """L1 reads, L2 reads, back in L1."""
        assert self.read() == b"L1 data!"
        self.vmrun()
        assert self.read() == b"L2 data!"
        self.l2.vmexit()

    def roots(self):
        return [r.hpa for r in (self.cpu.root, *self.cpu.prev_roots) if r.hpa is not None]

    def sound(self):
        assert self.vm.warning is None
        assert invariants.check_all(self.vm) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", ["linux-6.1", "linux-6.12", "linux-7.2"])
def test_n_round_trips_make_nothing_new(mode, rules):
    """Seed 003: after the first pair no new roots, no duplicate among the cached ones, counters stand still."""
    m = Machine(mode, rules)
    m.round_trip()
    m.round_trip()
    before = {name: m.vm.stat[name] for name in ("mmu_cache_miss", "mmu_page_created", "mmu_shadow_zapped")}
    taken = m.cpu.stat["pf_taken"]
    pages = [(p.id, p.root_count) for p in m.vm.shadow_pages]
    for _ in range(20):
        m.round_trip()
        assert len(set(m.roots())) == len(m.roots())
    assert {name: m.vm.stat[name] for name in before} == before
    assert m.cpu.stat["pf_taken"] == taken
    assert [(p.id, p.root_count) for p in m.vm.shadow_pages] == pages
    m.sound()


@pytest.mark.parametrize("mode", ["pae", "bits32"])
def test_64_bit_root_hits_after_a_32_bit_guest(mode):
    """Seed 000: the special root of L2 is dropped, never cached; L1's comes back out of prev_roots without an allocation."""
    m = Machine(mode)
    m.round_trip()
    m.read()
    l1_root = m.cpu.root.hpa
    m.vmrun()
    m.read()
    special = m.cpu.root.hpa
    assert m.cpu.prev_roots[0].hpa == l1_root
    hits, misses = m.vm.stat["root_hit"], m.vm.stat["mmu_cache_miss"]
    looked_up = m.vm.stat["mmu_cache_hit"]
    m.l2.vmexit()
    assert m.cpu.root.hpa == l1_root, "found without kvm_mmu_load"
    assert m.vm.stat["root_hit"] == hits + 1
    m.read()
    assert (m.vm.stat["mmu_cache_miss"], m.vm.stat["mmu_cache_hit"]) == (misses, looked_up)
    assert special not in m.roots()
    m.sound()


def test_both_64_bit_roots_stay_cached():
    m = Machine("level4")
    m.round_trip()
    hits = m.vm.stat["root_hit"]
    m.vmrun()
    m.read()
    m.l2.vmexit()
    assert m.vm.stat["root_hit"] == hits + 2
    assert m.cpu.prev_roots[0].pgd == m.g2.root


def test_guest_mode_is_part_of_the_role():
    """L1 and L2 with the same CR3 share no shadow page: what L1 intercepts may differ."""
    m = Machine("level4")
    m.read()
    m.vmrun(cr3=m.g1.root)
    assert m.read() == b"L1 data!"
    modes = {bool(p.role & roles.GUEST_MODE) for p in m.vm.shadow_pages if p.gfn == m.g1.root >> 12}
    assert modes == {True, False}
    m.sound()


def test_what_l1_changes_without_a_flush_is_seen_by_the_next_vmrun():
    """Every transition syncs, whatever ASID and TLB_CONTROL say (golden n1 STEP 12)."""
    m = Machine("level4")
    alias = 0x600000
    m.g1.map(alias, m.g2.table(GVA))
    m.round_trip()
    m.vm.write_gpa(L2_PAGE + 0x1000, b"L2 new!!")
    m.cpu.write(alias + 8 * m.g2.index(GVA, 1), L2_PAGE + 0x1000 | 0x67)
    assert m.vm.stat["mmu_unsync"] > 0, "L1 writes the page table of L2 without emulation"
    m.vmrun()
    assert m.read() == b"L2 new!!"
    m.sound()


def test_every_transition_flushes_and_syncs():
    m = Machine("level4")
    m.read()
    m.vmrun()
    assert {"MMU_SYNC", "TLB_FLUSH_CURRENT"} <= set(m.cpu.requests)
    m.read()
    m.l2.vmexit()
    assert {"MMU_SYNC", "TLB_FLUSH_CURRENT"} <= set(m.cpu.requests)


def test_an_intercepted_page_fault_leaves_for_l1_and_keeps_cr2():
    m = Machine("level4")
    m.vmrun(exceptions=1 << PF)
    cr2 = m.cpu.cr2
    with pytest.raises(NestedExit) as caught:
        m.cpu.write(GVA + 0x5000, 1)
    assert (caught.value.kind, caught.value.vector, caught.value.error_code) == ("exception", PF, 2)
    assert caught.value.address == GVA + 0x5000 and m.cpu.cr2 == cr2
    assert not m.l2.active and m.read() == b"L1 data!"


def test_a_pae_guest_with_reserved_pdpte_bits_is_refused():
    m = Machine("pae")
    m.read()
    m.g2.put(m.g2.root, m.g2.get(m.g2.root) | 1 << 1)
    with pytest.raises(VmError, match="PDPTEs"):
        m.vmrun()
    assert m.read() == b"L1 data!"
    m.sound()
