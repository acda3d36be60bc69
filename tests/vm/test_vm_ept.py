# SPDX-License-Identifier: GPL-2.0-or-later
"""Shadowed EPT, and shadowed NPT on a 5-level host, from the library.

Expectations by hand from the SDM (vol. 3, 29.3: formats, violations, misconfigurations; table 28-7: qualification) and the
dossier (3.11, 3.12; rows A6, B2, C13, C14, C16, C20; seed 000 point h).
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "mmu"))
from guest_tables import CR0, MODES, Guest  # noqa: E402

from shadowmmu.mmu import roles  # noqa: E402
from shadowmmu.state import interpreted  # noqa: E402
from shadowmmu.vm import GuestHypervisor, NestedExit, Vm, VmError  # noqa: E402
from shadowmmu.x86 import bits as b  # noqa: E402

R, W, X, RWX, LARGE, A, D = 1, 2, 4, 7, 0x80, 0x100, 0x200
WB, AD_ENABLE = 6, 0x40
DATA = 0x800000
GPA = 0x400000


class Ept:
    """EPT tables of L1, 4 levels, in L1's memory."""

    def __init__(self, vm, first_gfn):
        self.vm, self.next = vm, first_gfn
        self.root = self.page()

    def page(self):
        gpa = self.next << 12
        self.next += 1
        self.vm.write_gpa(gpa, bytes(4096))
        return gpa

    def get(self, at):
        return int.from_bytes(self.vm.read_gpa(at, 8), "little")

    def put(self, at, entry):
        self.vm.write_gpa(at, entry.to_bytes(8, "little"))

    def entry(self, gpa, level=1):
        """Address of the entry of `gpa` at `level`; tables above are made."""
        table = self.root
        for at in range(4, level, -1):
            place = table + (gpa >> 12 + 9 * (at - 1) & 511) * 8
            if not self.get(place) & RWX:
                self.put(place, self.page() | RWX)
            table = self.get(place) & 0xF_FFFF_FFFF_F000
        return table + (gpa >> 12 + 9 * (level - 1) & 511) * 8

    def map(self, gpa, to, rights=RWX, level=1, memtype=WB):
        self.put(self.entry(gpa, level), to | rights | memtype << 3 | (LARGE if level > 1 else 0))

    def eptp(self, flags=0):
        return self.root | WB | 3 << 3 | flags


class Machine:
    """A TDP host; L1 in 64-bit mode; L2 without paging of its own unless asked."""

    def __init__(self, mmu="tdp"):
        self.vm = Vm(32 << 20, mmu=mmu)
        self.cpu = self.vm.vcpus[0]
        self.l1 = Guest(self.vm, "level4", first_gfn=0x100)
        for page in range(0x1000):
            if page < 0x400:
                self.l1.map(page << 12, page << 12)
        self.l1.start()
        self.l2 = GuestHypervisor(self.cpu)
        self.ept = Ept(self.vm, 0x300)
        self.vm.write_gpa(DATA, b"at DATA.")
        self.vm.write_gpa(DATA + 0x1000, b"beyond..")

    def enter(self, ept=None, flags=0, vpid=1):
        self.l2.vmlaunch(cr0=b.CR0_PE | b.CR0_ET, cr3=0, cr4=0, efer=0, eptp=(ept or self.ept).eptp(flags), vpid=vpid)

    def read(self, gpa=GPA):
        return self.cpu.read(gpa).to_bytes(8, "little")

    def exit_of(self, access, *arguments):
        with pytest.raises(NestedExit) as caught:
            access(*arguments)
        assert not self.l2.active
        return caught.value


def test_an_l2_access_goes_through_ept():
    m = Machine()
    m.ept.map(GPA, DATA)
    m.enter()
    assert m.read() == b"at DATA."
    m.cpu.write(GPA + 8, 0x1122)
    assert m.vm.read_gpa(DATA + 8, 2) == b"\x22\x11"
    guest = interpreted.context(m.vm.view, 1)
    assert m.cpu.record.mmu == 1 and m.cpu.record.walk_mmu == 2
    assert roles.level(guest.root_role) == 4 and guest.root_role & roles.GUEST_MODE
    m.l2.vmexit()
    assert m.cpu.record.mmu == m.cpu.record.walk_mmu == 0
    assert m.vm.warning is None


@pytest.mark.parametrize(("rights", "access", "qualification"), [
    (0, "read", 1), (0, "write", 2), (0, "fetch", 4),
    (R, "write", 2 | R << 3), (R, "fetch", 4 | R << 3),
    (R | W, "fetch", 4 | (R | W) << 3), (R | X, "write", 2 | (R | X) << 3),
    (X, "read", 1 | X << 3), (X, "write", 2 | X << 3)])
def test_a_violation_tells_the_access_and_the_rights(rights, access, qualification):
    m = Machine()
    m.ept.map(GPA, DATA, rights)
    m.enter()
    call = {"read": lambda: m.cpu.read(GPA), "write": lambda: m.cpu.write(GPA, 1), "fetch": lambda: m.cpu.fetch(GPA)}[access]
    caught = m.exit_of(call)
    assert (caught.kind, caught.address, caught.qualification) == ("EPT violation", GPA, qualification)


def test_execute_only():
    m = Machine()
    m.vm.write_gpa(DATA, b"\xc3")
    m.ept.map(GPA, DATA, X)
    m.enter()
    assert m.cpu.fetch(GPA) == b"\xc3"
    assert m.exit_of(m.cpu.read, GPA).kind == "EPT violation"


@pytest.mark.parametrize(("entry", "why"), [
    (DATA | W | WB << 3, "write without read"), (DATA | W | X | WB << 3, "write and execute without read"),
    (DATA | RWX | 2 << 3, "memory type 2"), (DATA | RWX | 3 << 3, "memory type 3"), (DATA | RWX | 7 << 3, "memory type 7"),
    (DATA | RWX | WB << 3 | 1 << 45, "address beyond MAXPHYADDR")])
def test_misconfiguration(entry, why):
    m = Machine()
    m.ept.put(m.ept.entry(GPA), entry)
    m.enter()
    caught = m.exit_of(m.cpu.read, GPA)
    assert (caught.kind, caught.qualification) == ("EPT misconfiguration", 0), why


@pytest.mark.parametrize("level", [4, 3, 2])
def test_reserved_bits_of_an_upper_entry_are_a_misconfiguration(level):
    """Bits 6:3 of an entry that points to a table; bit 7 in a PML4E."""
    m = Machine()
    m.ept.map(GPA, DATA)
    place = m.ept.entry(GPA, level)
    m.ept.put(place, m.ept.get(place) | (LARGE if level == 4 else 1 << 3))
    m.enter()
    assert m.exit_of(m.cpu.read, GPA).kind == "EPT misconfiguration"


def test_execute_only_is_a_misconfiguration_where_vmx_does_not_offer_it():
    m = Machine()
    m.cpu.record.ept_execonly = 0
    m.ept.map(GPA, DATA, X)
    m.enter()
    assert m.exit_of(m.cpu.fetch, GPA).kind == "EPT misconfiguration"


def test_the_rights_of_all_levels_are_anded():
    m = Machine()
    m.ept.map(GPA, DATA)
    place = m.ept.entry(GPA, 3)
    m.ept.put(place, m.ept.get(place) & ~W)
    m.enter()
    assert m.read() == b"at DATA."
    assert m.exit_of(m.cpu.write, GPA, 1).qualification == 2 | (R | X) << 3


@pytest.mark.parametrize("enabled", [True, False])
def test_accessed_and_dirty_bits(enabled):
    m = Machine()
    m.ept.map(GPA, DATA)
    m.enter(flags=AD_ENABLE if enabled else 0)
    m.read()
    leaf, top = m.ept.entry(GPA), m.ept.entry(GPA, 4)
    assert m.ept.get(leaf) & (A | D) == (A if enabled else 0)
    assert m.ept.get(top) & (A | D) == (A if enabled else 0)
    m.cpu.write(GPA, 1)
    assert m.ept.get(leaf) & (A | D) == (A | D if enabled else 0)
    guest = interpreted.context(m.vm.view, 1)
    assert bool(guest.root_role & roles.AD_DISABLED) == (not enabled)


def test_a_2m_entry_over_4k_host_pages():
    m = Machine()
    m.ept.map(0x600000, DATA, RWX, level=2)
    m.enter()
    assert m.read(0x600000) == b"at DATA." and m.read(0x601000) == b"beyond.."
    direct = [p for p in m.vm.shadow_pages if p.direct]
    assert direct and all(p.role & roles.GUEST_MODE for p in direct)


def test_eptp_switching_uses_the_root_cache():
    m = Machine()
    other = Ept(m.vm, 0x380)
    m.ept.map(GPA, DATA)
    other.map(GPA, DATA + 0x1000)
    m.enter()
    assert m.read() == b"at DATA."
    m.l2.switch_eptp(other.eptp())
    assert m.read() == b"beyond.."
    missed, hit = m.vm.stat["mmu_cache_miss"], m.vm.stat["root_hit"]
    for i in range(6):
        m.l2.switch_eptp((m.ept, other)[i % 2].eptp())
        assert m.read() == (b"at DATA.", b"beyond..")[i % 2]
    assert (m.vm.stat["mmu_cache_miss"], m.vm.stat["root_hit"]) == (missed, hit + 6)
    assert not m.cpu.requests, "with a VPID, switching flushes nothing"
    with pytest.raises(VmError):
        m.l2.switch_eptp(other.root | 1 | 3 << 3)


@pytest.mark.parametrize("eptp", [WB | 2 << 3, 1 | 3 << 3, WB | 3 << 3 | 1 << 7, WB | 3 << 3 | 1 << 45, WB | 4 << 3])
def test_illegal_eptps_fail_the_entry(eptp):
    """Walk length 3, memory type 1, reserved bit 7, beyond MAXPHYADDR, 5 levels on a 4-level host."""
    m = Machine()
    with pytest.raises(VmError):
        m.l2.vmlaunch(cr0=b.CR0_PE, cr3=0, cr4=0, efer=0, eptp=m.ept.root | eptp, vpid=1)
    assert not m.l2.active


def roots_of_guest_mmu(m):
    c = interpreted.context(m.vm.view, 1)
    return [pgd for hpa, pgd in ((c.root_hpa, c.root_pgd), *zip(list(c.prev_hpa), list(c.prev_pgd), strict=True)) if hpa != -1]


def test_invept():
    """One context: every root with that frame, whatever its other EPTP bits; or all."""
    m = Machine()
    other = Ept(m.vm, 0x380)
    m.ept.map(GPA, DATA)
    other.map(GPA, DATA + 0x1000)
    for ept, flags in ((m.ept, 0), (m.ept, AD_ENABLE), (other, 0)):
        m.enter(ept, flags)
        m.read()
        m.l2.vmexit()
    assert sorted(roots_of_guest_mmu(m)) == sorted([m.ept.eptp(), m.ept.eptp(AD_ENABLE), other.eptp()])
    m.l2.invept(m.ept.eptp())
    assert roots_of_guest_mmu(m) == [other.eptp()]
    m.l2.invept()
    assert roots_of_guest_mmu(m) == []


def test_an_edit_of_an_ept_entry_is_seen_after_invept():
    m = Machine()
    m.ept.map(GPA, DATA)
    m.enter()
    assert m.read() == b"at DATA."
    m.l2.vmexit()
    m.cpu.write(m.ept.entry(GPA), DATA + 0x1000 | RWX | WB << 3)
    assert m.vm.stat["mmu_unsync"] == 1, "leaf tables go unsync, as a guest's own do"
    m.l2.invept(m.ept.eptp())
    m.enter()
    assert m.read() == b"beyond.."
    assert m.vm.warning is None


def test_an_edit_of_an_upper_ept_entry_is_seen_at_once():
    m = Machine()
    other = Ept(m.vm, 0x380)
    m.ept.map(GPA, DATA)
    other.map(GPA, DATA + 0x1000)
    m.enter()
    m.read()
    m.l2.vmexit()
    m.cpu.write(m.ept.entry(GPA, 2), other.get(other.entry(GPA, 2)))
    assert m.vm.stat["mmu_pte_write"] == 1
    m.enter()
    assert m.read() == b"beyond.."


def test_flushes_at_transitions_follow_the_vpid():
    m = Machine()
    m.ept.map(GPA, DATA)
    for vpid, asked in ((0, True), (5, True), (5, False), (6, True)):
        m.cpu.read(0x1000)
        m.enter(vpid=vpid)
        assert ("TLB_FLUSH_GUEST" in m.cpu.requests) == asked, vpid
        m.read()
        m.l2.vmexit()
        assert ("TLB_FLUSH_GUEST" in m.cpu.requests) == (vpid == 0)
        assert "MMU_SYNC" not in m.cpu.requests


def test_invvpid_with_shadow_paging_drops_l2s_roots():
    m = Machine("shadow")
    g2 = Guest(m.vm, "level4", first_gfn=0x500)
    g2.map(GPA, DATA)
    _, _, _, cr4, efer = MODES["level4"]
    m.cpu.read(0x1000)
    m.l2.vmlaunch(cr0=CR0, cr3=g2.root, cr4=cr4, efer=efer, vpid=1)
    assert m.read() == b"at DATA."
    m.l2.vmexit()
    assert g2.root in [r.pgd for r in m.cpu.prev_roots if r.hpa is not None]
    m.l2.invvpid()
    assert [r for r in m.cpu.prev_roots if r.hpa is not None] == []
    assert m.cpu.read(0x1000) is not None and m.vm.warning is None


def test_paging_of_l2_over_ept():
    """L2's tables are L2-physical; a table that the EPT lacks is a violation with the table's address, read and written."""
    m = Machine()
    g2 = Guest(m.vm, "level4", first_gfn=0x500)
    g2.map(0x12345000, GPA)
    for gfn in range(0x500, g2.next):
        m.ept.map(gfn << 12, gfn << 12)
    m.ept.map(GPA, DATA)
    _, _, _, cr4, efer = MODES["level4"]

    def enter():
        m.l2.vmlaunch(cr0=CR0, cr3=g2.root, cr4=cr4, efer=efer, eptp=m.ept.eptp(AD_ENABLE), vpid=1)

    enter()
    assert m.read(0x12345000) == b"at DATA."
    assert m.cpu.translate(0x12345000) == DATA
    m.l2.vmexit()
    table = g2.table(0x12345000)
    m.cpu.write(m.ept.entry(table), 0)
    m.l2.invept()
    enter()
    caught = m.exit_of(m.cpu.read, 0x12345000)
    assert (caught.kind, caught.address & -4096, caught.qualification) == ("EPT violation", table, 3)


# ---- shadowed NPT on a 5-level host

def test_4_level_npt_on_a_5_level_host_is_passed_through_and_cached():
    """Seed 000 point h: such roots have a shadow page and stay in the cache (84e5ffd045f3)."""
    m = Machine()
    m.cpu.record.tdp_level = 5
    m.cpu.set_cpuid()
    npts = [Guest(m.vm, "level4", first_gfn=0x500), Guest(m.vm, "level4", first_gfn=0x580)]
    for i, npt in enumerate(npts):
        npt.map(GPA, DATA + 0x1000 * i)

    def visit(i):
        m.l2.vmrun(cr0=b.CR0_PE | b.CR0_ET, cr3=0, cr4=0, efer=b.EFER_SVME, nested_cr3=npts[i].root)
        assert m.read() == (b"at DATA.", b"beyond..")[i]
        role = interpreted.context(m.vm.view, 1).root_role
        m.l2.vmexit()
        return role

    for i in (0, 1):
        role = visit(i)
        assert roles.level(role) == 5 and role & roles.PASSTHROUGH
    missed, hit = m.vm.stat["mmu_cache_miss"], m.vm.stat["root_hit"]
    for i in range(8):
        visit(i % 2)
    assert m.vm.stat["mmu_cache_miss"] == missed
    assert m.vm.stat["root_hit"] >= hit + 8
    top = [p for p in m.vm.shadow_pages if p.role & roles.PASSTHROUGH]
    assert len(top) == 2 and all(list(p.sptes) == [0] for p in top)
    assert m.vm.warning is None
