# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct MMUs: nested page tables of the TDP MMU (kvm.tdp_mmu=Y) and of the legacy direct MMU (N).

Expectations: Linux 6.12 tdp_mmu.c and mmu.c (direct_map, fast_page_fault, kvm_recover_nx_huge_pages), dossier 2.3 rows "TDP
MMU", "fast page fault", "access tracking", "NX huge pages", "dirty logging", 1.2 and 1.3; APM vol. 2 15.25.  The recorded
kernels (tests/engines/test_golden_direct.py) cover events; here is what no recording has: huge pages, PML, ageing, SMM.
"""

import random

import pytest
from guest_tables import CR0, A, D, Guest, U, W

from shadowmmu.mmu import events
from shadowmmu.rules import RULES
from shadowmmu.state import interpreted
from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, VmError
from shadowmmu.x86 import bits as b

BOTH = pytest.mark.parametrize("mmu", ["tdp", "tdp-legacy"])
GVA, A_PAGE, B_PAGE = 0x400000, 0x800000, 0x801000
MEG, MEG2 = 1 << 20, 2 << 20
NESTED_NX = 1 << 63
PRESENT, MMU_W, LARGE = 1 << 11, 1 << 10, 1 << 7


def started(machine, mmu, memory=16 << 20, **options):
    """A guest with two mapped pages under nested paging."""
    vm = machine(memory, mmu=mmu, **options)
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.map(GVA + 0x1000, B_PAGE)
    g.start()
    return vm, g


def tables(vm, mmu):
    """All nested tables in use."""
    return vm.tdp_pages if mmu == "tdp" else vm.shadow_pages


def leaf(vm, mmu, gpa):
    """(spte, level) that maps a guest-physical address, or None."""
    gfn = gpa >> 12
    for page in tables(vm, mmu):
        span = 1 << 9 * (page.level - 1)
        if page.gfn <= gfn < page.gfn + 512 * span:
            spte = page.sptes.get((gfn - page.gfn) // span)
            if spte is not None and spte & PRESENT and (page.level == 1 or spte & LARGE):
                return spte, page.level
    return None


def events_of(vm, kind):
    return [row for row in vm.drain_events() if row[0] == kind]


# ---- hardware

@BOTH
def test_a_cold_access_reads_24_entries(machine, mmu):
    """4-level guest tables in 4-level nested tables: (4 + 1) * 4 nested and 4 guest references (APM vol. 2 15.25.5)."""
    vm, g = started(machine, mmu)
    g.cpu.read(GVA)
    h = interpreted.hw_walk(vm.view)
    before = h.guest_refs, h.nested_refs, h.walks
    g.cpu.read(GVA)
    assert (h.guest_refs - before[0], h.nested_refs - before[1], h.walks - before[2]) == (4, 20, 1)


@BOTH
@pytest.mark.parametrize("mode", ["bits32", "pae", "level4", "level5"])
def test_hardware_and_the_kernels_walker_agree(machine, mmu, mode):
    """Random guest entries and accesses: the two-dimensional walk against KVM's own walk of the same guest tables (no
    common code): same verdict, same error code, same A and D bits."""
    rng = random.Random(mode)
    vm = machine(mmu=mmu)
    g = Guest(vm, mode)
    gvas = [GVA + 0x1000 * k for k in range(48)]
    for k, gva in enumerate(gvas):
        flags = rng.choice((0, 1, 1, 1)) | rng.getrandbits(1) * W | rng.getrandbits(1) * U | rng.getrandbits(1) * A \
            | rng.getrandbits(1) * D
        if mode != "bits32" and rng.random() < 0.3:
            flags |= NESTED_NX
        if rng.random() < 0.1 and mode != "bits32":
            flags |= 1 << 45        # reserved: beyond MAXPHYADDR
        g.map(gva, A_PAGE + 0x1000 * k, flags)
    verdicts = set()
    for _ in range(6):
        cr0 = CR0 & ~b.CR0_WP if rng.random() < 0.5 else CR0
        cr4 = rng.choice((0, b.CR4_SMEP, b.CR4_SMAP, b.CR4_SMEP | b.CR4_SMAP))
        g.start(cr0=cr0, cr4=cr4)
        for gva in gvas:
            user, ac = rng.getrandbits(1), rng.getrandbits(1)
            kind = rng.choice(("read", "write", "fetch"))
            g.cpu.set_privilege(3 if user else 0, bool(ac))
            entry = g.entry(gva)
            start = g.get(entry)
            gpa = g.cpu.translate(gva, write=kind == "write", user=bool(user), fetch=kind == "fetch")
            expected = g.cpu.other_walker.fault_error if gpa is None else None
            by_walker = g.get(entry)
            g.put(entry, start)
            got = None
            try:
                {"read": lambda a: g.cpu.read(a, 1), "write": lambda a: g.cpu.write(a, 1, 1),
                 "fetch": lambda a: g.cpu.fetch(a)}[kind](gva)
            except GuestFault as fault:
                assert fault.address == gva and fault.vector == b.PF
                got = fault.error_code
            assert got == expected, (mode, hex(gva), kind, user, ac, hex(cr0), hex(cr4), hex(start))
            assert g.get(entry) == by_walker
            verdicts.add(got)
    assert None in verdicts and len(verdicts) > 4


@BOTH
def test_noncanonical_and_unpaged(machine, mmu):
    vm, g = started(machine, mmu)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(1 << 50)
    assert fault.value.vector == b.GP
    other = machine(mmu=mmu)
    other.vcpus[0].set_sregs(cr0=b.CR0_PE | b.CR0_ET, cr3=0, cr4=0, efer=0)
    other.write_gpa(A_PAGE, b"\x11")
    assert other.vcpus[0].read(A_PAGE, 1) == 0x11


# ---- roots

@BOTH
def test_paging_modes_share_one_root(machine, mmu):
    """The root role does not depend on how the guest pages: no second root, no new table after PG, PAE, NX toggles."""
    vm, g = started(machine, mmu)
    g.cpu.write(GVA, 1)
    made = vm.stat["mmu_page_created"]
    for cr4 in (b.CR4_PGE, b.CR4_PSE, b.CR4_SMEP, 0):
        g.cpu.set_cr4(b.CR4_PAE | cr4)
        g.cpu.read(GVA)
    g.cpu.set_cr0(CR0 & ~b.CR0_WP)
    g.cpu.read(GVA)
    g.cpu.set_efer(b.EFER_LME | b.EFER_LMA)
    g.cpu.read(GVA)
    assert vm.stat["mmu_page_created"] == made
    roots = [p for p in tables(vm, mmu) if p.root_count]
    assert [p.root_count for p in roots] == [2 if mmu == "tdp" else 1]
    assert vm.view.indirect_shadow_pages == 0


def test_vcpus_share_the_root_and_smm_has_its_own(machine):
    """One tree per role; the MMU itself holds one reference (edbdb43fc96b)."""
    vm = machine(mmu="tdp", config=Config(vcpus=2))
    vm.add_memslot(7, 0, 16 << 20, 0, as_id=1)
    guests = [Guest(vm, cpu=0), Guest(vm, cpu=1, first_gfn=0x200)]
    for g in guests:
        g.map(GVA, A_PAGE)
        g.start()
        g.cpu.read(GVA)
    assert [(p.root_count, p.level) for p in vm.tdp_pages if p.root_count] == [(3, 4)]
    guests[0].cpu.enter_smm()
    guests[0].cpu.read(GVA)
    assert sorted((p.root_count, p.role >> 24) for p in vm.tdp_pages if p.root_count) == [(2, 0), (2, 1)]
    vm.close()
    assert vm.tdp_pages == [] and vm.view.tdp_mmu_pages == 0
    machine.do_not_check(vm)


@BOTH
def test_memslot_delete_empties_and_replaces_the_root(machine, mmu):
    vm, g = started(machine, mmu)
    g.cpu.write(GVA, 5)
    made = vm.stat["mmu_page_created"]
    vm.delete_memslot(0)
    if mmu == "tdp":
        # the vCPU still holds the root, which is invalid and has no entry
        old, = vm.tdp_pages
        assert (old.root_count, old.sptes) == (1, {}) and old.role & 1 << 12
    vm.add_memslot(0, 0, 16 << 20, 0)
    assert g.cpu.read(GVA) == 5
    assert vm.stat["mmu_page_created"] >= 2 * made - 1
    root, = (p for p in tables(vm, mmu) if p.root_count)
    assert not root.role & 1 << 12 and g.cpu.root.hpa == root.frame << 12


def test_zap_order_of_each_kernel(machine):
    """6.1 cuts the tree at 1G and freezes downwards; since 6.12 leaves go first; 7.2 tells a change after its subtree."""
    told = {}
    for name in ("linux-6.1", "linux-6.12", "linux-7.2"):
        vm, g = started(machine, "tdp", rules=name)
        g.cpu.read(GVA)
        vm.drain_events()
        vm.delete_memslot(0)
        told[name] = [(row[0], row[3]) for row in vm.drain_events()
                      if row[0] == events.TDP_SPTE_CHANGED or row[0] == events.PREPARE_ZAP_PAGE]
        # every entry of the three tables below the root is told once when it is frozen, present or not
        assert sum(row[0] == events.TDP_SPTE_CHANGED for row in told[name]) >= 3 * 512
        vm.add_memslot(0, 0, 16 << 20, 0)
    assert told["linux-6.1"][0] == (events.TDP_SPTE_CHANGED, 3)
    assert told["linux-6.12"][0] == told["linux-7.2"][0] == (events.TDP_SPTE_CHANGED, 1)
    first_zap = {name: next(i for i, row in enumerate(rows) if row[0] == events.PREPARE_ZAP_PAGE)
                 for name, rows in told.items()}
    assert told["linux-6.12"][first_zap["linux-6.12"] - 1] == (events.TDP_SPTE_CHANGED, 2)
    assert told["linux-7.2"][first_zap["linux-7.2"] - 1] == (events.TDP_SPTE_CHANGED, 1)


# ---- dirty log

@BOTH
def test_dirty_log_by_write_protection(machine, mmu):
    """W goes, MMU-writable stays; the first write of each page is a fast page fault (no mmu_lock, no new entry)."""
    vm, g = started(machine, mmu)
    g.cpu.write(GVA, 1)
    g.cpu.write(GVA + 0x1000, 1)
    vm.log_dirty(0, True)
    spte, level = leaf(vm, mmu, A_PAGE)
    assert level == 1 and not spte & W and spte & MMU_W
    for n in range(3):
        g.cpu.read(GVA + 0x1000)
        g.cpu.write(GVA, n)
        log = vm.dirty_log(0)
        assert A_PAGE >> 12 in log and B_PAGE >> 12 not in log
        # the hardware's walk writes the guest's tables as far as the nested entries know
        assert set(log) - {A_PAGE >> 12} <= {g.table(GVA, at) >> 12 for at in (1, 2, 3, 4)}
    assert g.cpu.stat["pf_fast"] >= 3
    vm.log_dirty(0, False)
    g.cpu.write(GVA + 0x1000, 2)
    assert g.cpu.read(GVA + 0x1000) == 2


@BOTH
def test_dirty_log_by_hardware(machine, mmu):
    """PML: D is cleared, W stays; writes are logged without any fault."""
    vm, g = started(machine, mmu, rules={**RULES["linux-6.12"], "pml": 1})
    g.cpu.write(GVA, 1)
    g.cpu.write(GVA + 0x1000, 1)
    vm.log_dirty(0, True)
    spte, _ = leaf(vm, mmu, A_PAGE)
    assert spte & W and not spte & D
    taken = g.cpu.stat["pf_taken"]
    assert vm.dirty_log(0) == []
    g.cpu.read(GVA + 0x1000)
    g.cpu.write(GVA, 2)
    log = vm.dirty_log(0)
    assert A_PAGE >> 12 in log and B_PAGE >> 12 not in log
    g.cpu.write(GVA, 3)
    assert A_PAGE >> 12 in vm.dirty_log(0)
    assert vm.dirty_log(0) == [] and g.cpu.stat["pf_taken"] == taken


# ---- huge pages

def huge(machine, mmu, **rules):
    vm, g = started(machine, mmu, 64 << 20, config=Config(memory_pages=16384, host_level=2),
                    rules={**RULES[rules.pop("base", "linux-6.12")], **rules})
    g.map(GVA + 0x2000, 32 * MEG)
    g.map(GVA + 0x3000, 32 * MEG + 0x5000)
    return vm, g


@BOTH
def test_huge_page_maps_two_megabytes(machine, mmu):
    vm, g = huge(machine, mmu)
    g.cpu.write(GVA + 0x2000, 7)
    assert leaf(vm, mmu, 32 * MEG)[1] == 2 and vm.stat["pages_2m"] > 0
    taken = g.cpu.stat["pf_taken"]
    assert g.cpu.read(GVA + 0x3000) == 0 and g.cpu.stat["pf_taken"] == taken


@pytest.mark.parametrize("base", ["linux-6.12", "linux-7.2"])
def test_dirty_log_splits_and_recovers_huge_pages(machine, base):
    """eager_page_split: 512 write-protected 4K entries, no fault; without the log the huge page comes back: by a fault
    (zapped, until 6.13) or at once (in place)."""
    vm, g = huge(machine, "tdp", base=base)
    g.cpu.write(GVA + 0x2000, 7)
    vm.drain_events()
    vm.log_dirty(0, True)
    splits = events_of(vm, events.SPLIT_HUGE_PAGE)
    assert (32 * MEG >> 12, 2, 0) in [(row[1], row[3], row[4]) for row in splits]
    assert vm.stat["pages_2m"] == 0 and vm.stat["pages_4k"] == 512 * len(splits)
    spte, level = leaf(vm, "tdp", 32 * MEG + 0x5000)
    assert level == 1 and not spte & W and spte & MMU_W
    g.cpu.write(GVA + 0x3000, 9)
    assert (32 * MEG >> 12) + 5 in vm.dirty_log(0)
    vm.log_dirty(0, False)
    found = leaf(vm, "tdp", 32 * MEG)
    if base == "linux-7.2":
        assert found[1] == 2
    else:
        assert found is None
    assert g.cpu.read(GVA + 0x3000) == 9 and g.cpu.read(GVA + 0x2000) == 7
    assert leaf(vm, "tdp", 32 * MEG)[1] == 2


def test_legacy_huge_page_of_a_dirty_log_is_split_by_the_first_write(machine):
    """fast_page_fault leaves a huge page of a dirty log alone; the slow path maps 4K."""
    vm, g = huge(machine, "tdp-legacy")
    g.cpu.write(GVA + 0x2000, 7)
    vm.log_dirty(0, True)
    spte, level = leaf(vm, "tdp-legacy", 32 * MEG)
    assert level == 2 and not spte & W
    g.cpu.write(GVA + 0x3000, 9)
    assert leaf(vm, "tdp-legacy", 32 * MEG + 0x5000)[1] == 1
    assert (32 * MEG >> 12) + 5 in vm.dirty_log(0) and 32 * MEG >> 12 not in vm.dirty_log(0)


@BOTH
def test_nx_huge_pages_split_on_execution_and_recover(machine, mmu):
    """iTLB multihit: huge means not executable; a fetch makes 4K tables, which recovery zaps, oldest first."""
    vm, g = huge(machine, mmu, nx_huge_pages=1)
    g.cpu.write(GVA + 0x2000, 0x90, 1)
    assert leaf(vm, mmu, 32 * MEG)[0] & NESTED_NX
    assert vm.stat["nx_lpage_splits"] == 0
    assert g.cpu.fetch(GVA + 0x2000) == b"\x90"
    spte, level = leaf(vm, mmu, 32 * MEG)
    assert level == 1 and not spte & NESTED_NX and vm.stat["nx_lpage_splits"] == 1
    # a data access does not bring the huge page back while the table is marked
    g.cpu.write(GVA + 0x3000, 1)
    assert leaf(vm, mmu, 32 * MEG + 0x5000)[1] == 1
    assert vm.recover_nx_huge_pages() == 1
    assert vm.stat["nx_lpage_splits"] == 0 and leaf(vm, mmu, 32 * MEG) is None
    g.cpu.read(GVA + 0x3000)
    assert leaf(vm, mmu, 32 * MEG)[1] == 2
    assert vm.recover_nx_huge_pages(0) == 0


def test_recovery_of_each_kernel(machine):
    """a57750909580: with mmu_lock shared, empty entries are frozen and told, too."""
    told = {}
    for base in ("linux-6.12", "linux-7.2"):
        vm, g = huge(machine, "tdp", nx_huge_pages=1, base=base)
        g.cpu.fetch(GVA + 0x2000)
        vm.drain_events()
        assert vm.recover_nx_huge_pages() == 1 and vm.stat["nx_lpage_splits"] == 0
        told[base] = len(events_of(vm, events.TDP_SPTE_CHANGED))
    # the table's entry and the one page that was mapped; every entry of the table
    assert told == {"linux-6.12": 2, "linux-7.2": 1 + 512}


def test_recovery_keeps_tables_of_a_dirty_log(machine):
    vm, g = huge(machine, "tdp", nx_huge_pages=1)
    g.cpu.fetch(GVA + 0x2000)
    vm.log_dirty(0, True)
    vm.recover_nx_huge_pages(1)
    assert leaf(vm, "tdp", 32 * MEG)[1] == 1 and vm.stat["nx_lpage_splits"] == 0


# ---- the host's other doings

@BOTH
def test_notifier_unmap_takes_the_leaf_only(machine, mmu):
    vm, g = started(machine, mmu)
    g.cpu.write(GVA, 1)
    g.cpu.write(GVA + 0x1000, 2)
    count = len(tables(vm, mmu))
    vm.unmap_host(A_PAGE, 4096)
    assert leaf(vm, mmu, A_PAGE) is None and leaf(vm, mmu, B_PAGE) is not None
    assert len(tables(vm, mmu)) == count
    assert "TLB_FLUSH" in g.cpu.requests
    assert g.cpu.read(GVA) == 0 and g.cpu.read(GVA + 0x1000) == 2


@BOTH
@pytest.mark.parametrize("ad", [1, 0])
def test_ageing(machine, mmu, ad):
    """With A/D bits A is cleared; without, the entry becomes absent to the hardware and the next use is a fast fault."""
    vm, g = started(machine, mmu, rules={**RULES["linux-6.12"], "ad_enabled": ad})
    g.cpu.write(GVA, 1)
    assert vm.age(A_PAGE, 4096, test_only=True)
    assert vm.age(A_PAGE, 4096)
    assert not vm.age(A_PAGE, 4096, test_only=True)
    spte, _ = leaf(vm, mmu, A_PAGE)
    assert bool(spte & 1) == bool(ad) and spte & PRESENT
    fast = g.cpu.stat["pf_fast"]
    assert g.cpu.read(GVA) == 1
    assert g.cpu.stat["pf_fast"] == fast + (0 if ad else 1)
    assert vm.age(A_PAGE, 4096, test_only=True)
    if not ad:
        # P came back by the read; W comes back by a second fast fault
        assert leaf(vm, mmu, A_PAGE)[0] & (1 | W) == 1
    g.cpu.write(GVA, 3)
    assert g.cpu.read(GVA) == 3 and leaf(vm, mmu, A_PAGE)[0] & W
    with pytest.raises(VmError, match="no memslot holds"):
        vm.age(1 << 30, 4096)


@BOTH
def test_mmio_by_nested_fault(machine, mmu):
    """No memslot: an MMIO entry with the generation; a new memslot there makes it stale, and the fault maps memory."""
    vm = machine(mmu=mmu, config=Config(memory_pages=4352))
    g = Guest(vm)
    g.map(GVA, 0x10000000)
    g.start()
    for _ in range(2):
        with pytest.raises(VmError, match="MMIO"):
            g.cpu.read(GVA)
    assert g.cpu.stat["pf_mmio_spte_created"] == 1
    vm.add_memslot(1, 0x10000000, 1 << 20, 16 << 20)
    g.cpu.write(GVA, 77)
    assert vm.read_gpa(0x10000000, 8) == (77).to_bytes(8, "little")


@BOTH
def test_read_only_memslot(machine, mmu):
    vm = machine(mmu=mmu, config=Config(memory_pages=4352))
    vm.add_memslot(1, 0x10000000, 1 << 20, 16 << 20, readonly=True)
    g = Guest(vm)
    g.map(GVA, 0x10000000)
    g.start()
    assert g.cpu.read(GVA) == 0
    with pytest.raises(VmError, match="MMIO"):
        g.cpu.write(GVA, 1)
    assert not leaf(vm, mmu, 0x10000000)[0] & W


@BOTH
def test_quota(machine, mmu):
    """KVM_SET_NR_MMU_PAGES counts shadow pages only, not the tables of the TDP MMU."""
    vm, g = started(machine, mmu, 192 << 20, config=Config(memory_pages=49152, shadow_pages=256))
    vm.set_nr_mmu_pages(64)
    for k in range(80):
        g.map(GVA + 0x10000 + 0x1000 * k, MEG2 * (k + 8))
        g.cpu.read(GVA + 0x10000 + 0x1000 * k)
    if mmu == "tdp":
        assert vm.view.n_used_mmu_pages == 0 and vm.view.tdp_mmu_pages > 80
    else:
        assert vm.view.n_used_mmu_pages <= 64 and vm.stat["mmu_recycled"] > 20
