# SPDX-License-Identifier: GPL-2.0-or-later
"""The root cache: rotation over all states of three slots, mutants that the same check must reject, special roots.

Expectations: dossier 1.0 (seed 000: merged algorithm, points a, f, g, j), 1.3 (seed 003), 3.11, acceptance 6.2.
"""

import pytest
from guest_tables import Guest, P, pages

from shadowmmu.checker import invariants
from shadowmmu.mmu import roots
from shadowmmu.state import JIT, interpreted
from shadowmmu.vm import GuestFault
from shadowmmu.x86 import bits as b

GVA, PAGE_GPA = 0x400000, 0x800000


# ---- the rotation, as the dossier states it: a model on lists

def expected(current, prev, wanted):
    """(hit, current, prev, freed) after a switch to `wanted`; None is an invalid root."""
    if current is not None:
        if current == wanted:
            return True, current, prev, None
        chain = [current, *prev]
        if wanted in prev:
            at = prev.index(wanted)
            # the old current root becomes the MRU, entries before the hit move one down
            return True, wanted, [chain[0], *prev[:at], *prev[at + 1:]], None
        return False, None, chain[:3], prev[2]
    if wanted in prev:
        at = prev.index(wanted)
        return True, wanted, [*prev[:at], *prev[at + 1:], None], None
    return False, None, prev, None


def states():
    """Every filling of current + 3 slots with distinct roots or nothing, and every wanted pgd."""
    for mask in range(16):
        names = iter("ABCD")
        slots = [next(names) if mask >> i & 1 else None for i in range(4)]
        for wanted in [*(s for s in slots if s), "X"]:
            yield slots[0], slots[1:], wanted


class Cache:
    """A machine with roots A..D and X known, whose root cache can be set."""

    def __init__(self, vm):
        self.vm, self.g = vm, Guest(vm)
        cpu = self.cpu = vm.vcpus[0]
        cpu.set_cpuid(pcid=True)
        self.pgds = {name: self.g.page() for name in "ABCDX"}
        self.hpa = {}
        self.g.map(GVA, PAGE_GPA)
        self.g.start(cr4=b.CR4_PCIDE)
        for name, pgd in self.pgds.items():
            self.g.map(GVA, PAGE_GPA, root=pgd)
            cpu.set_cr3(pgd)
            cpu.read(GVA)
            self.hpa[name] = cpu.root.hpa

    def record(self, name):
        return interpreted.page(self.vm.view, next(sp.id for sp in self.vm.shadow_pages
                                                   if sp.frame << 12 == self.hpa[name]))

    def set(self, current, prev):
        """Give the cache this state, references counted."""
        ctx = self.cpu.mmu
        for name in self.pgds:
            self.record(name).root_count = [current, *prev].count(name)
        ctx.root_hpa, ctx.root_pgd = (self.hpa[current], self.pgds[current]) if current else (-1, 0)
        for i, name in enumerate(prev):
            ctx.prev_hpa[i], ctx.prev_pgd[i] = (self.hpa[name], self.pgds[name]) if name else (-1, -1)

    def switch(self, wanted):
        """MOV CR3 with NOFLUSH, which does nothing but switch: True for a hit."""
        self.cpu.record.cr3 = 0x7F000
        hits = self.vm.stat["root_hit"]
        self.cpu.set_cr3(self.pgds[wanted] | 1 << 63)
        return self.vm.stat["root_hit"] > hits

    def get(self):
        names = {hpa: name for name, hpa in self.hpa.items()} | {None: None}
        return names[self.cpu.root.hpa], [names[r.hpa] for r in self.cpu.prev_roots]


def violations(vm):
    """All states from which the machine's cache does something else than the model, or loses count."""
    cache, out = Cache(vm), []
    for current, prev, wanted in states():
        cache.set(current, prev)
        hit = cache.switch(wanted)
        got = hit, *cache.get()
        broken = [text for module in (invariants.root_references, invariants.root_cache) for text in module.check(vm)]
        if got != expected(current, prev, wanted)[:3] or broken:
            out.append((current, prev, wanted, got, broken))
    cache.set(None, [None] * 3)
    return out


def test_the_list_of_states_is_complete():
    """16 fillings; each with every root in it and one that is not: 16 + 4 * 8."""
    assert len({(c, tuple(p), w) for c, p, w in states()}) == len(list(states())) == 48


def test_rotation_in_every_state(machine):
    """Acceptance check 6.2.  Point f ("this looks wrong") is a false alarm: no root is lost or doubled."""
    vm = machine()
    assert violations(vm) == []
    vm.vcpus[0].record.cr3 = Guest(vm, first_gfn=0x700).root


def test_rotation_conserves_references():
    """The model itself: what was in the cache is in it afterwards, except for what is freed."""
    for current, prev, wanted in states():
        _hit, now, after, freed = expected(current, prev, wanted)
        left = [x for x in [current, *prev] if x]
        kept = [x for x in [now, *after] if x]
        assert sorted(kept + [freed] * (freed is not None)) == sorted(left)


def _mutant_wrong_index(vm, ctx, new_pgd, new_role):
    """f, mutant 1: INVALID at the hit's place after shifting."""
    for i in range(3):
        if roots.is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            roots.swap_root(ctx, i)
            for k in range(i, 2):
                ctx.prev_hpa[k], ctx.prev_pgd[k] = ctx.prev_hpa[k + 1], ctx.prev_pgd[k + 1]
            ctx.prev_hpa[i] = -1
            return True
    return False


def _mutant_no_invalid(vm, ctx, new_pgd, new_role):
    """f, mutant 2: no INVALID at the end: the last root stands in two slots."""
    for i in range(3):
        if roots.is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            roots.swap_root(ctx, i)
            for k in range(i, 2):
                ctx.prev_hpa[k], ctx.prev_pgd[k] = ctx.prev_hpa[k + 1], ctx.prev_pgd[k + 1]
            return True
    return False


def _mutant_no_shift(vm, ctx, new_pgd, new_role):
    """f, mutant 3: no shift: correct references, but a hole and another order."""
    for i in range(3):
        if roots.is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            roots.swap_root(ctx, i)
            return True
    return False


def _mutant_no_early_check(vm, ctx, new_pgd, new_role):
    """Seed 003: the current root itself is not looked at first."""
    for i in range(3):
        roots.swap_root(ctx, i)
        if roots.is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
            return True
    roots.free_roots(vm, ctx, roots.CURRENT)
    return False


def _mutant_no_free(vm, ctx, new_pgd, new_role):
    """The root that falls out is dropped without being put: root_count stays too high."""
    if roots.is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
        return True
    for i in range(3):
        roots.swap_root(ctx, i)
        if roots.is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
            return True
    ctx.root_hpa = -1
    return False


MUTANTS = [("cached_root_find_without_current", _mutant_wrong_index, True),
           ("cached_root_find_without_current", _mutant_no_invalid, True),
           ("cached_root_find_without_current", _mutant_no_shift, False),
           ("cached_root_find_and_keep_current", _mutant_no_early_check, False),
           ("cached_root_find_and_keep_current", _mutant_no_free, True)]


@pytest.mark.skipif(JIT, reason="a compiled function cannot be replaced once it is compiled; the other mode runs this")
@pytest.mark.parametrize("name, mutant, breaks_counts", MUTANTS, ids=lambda x: getattr(x, "__name__", None))
def test_mutants_are_rejected(machine, monkeypatch, name, mutant, breaks_counts):
    """Acceptance check 6.2: each mutant differs from the model; those that lose or double a root also break an
    invariant, those that only spoil the order do not."""
    vm = machine()
    machine.do_not_check(vm)
    monkeypatch.setattr(roots, name, mutant)
    found = violations(vm)
    assert found
    assert any(broken for *_, broken in found) == breaks_counts


# ---- through the guest's eyes

def test_old_root_becomes_most_recent(machine):
    """Point a: roots C,A,B,D; switch to A: prev [C,B,D]; switch to a new one: prev [A,C,B], D freed."""
    vm = machine()
    cache = Cache(vm)
    cache.set("C", ["A", "B", "D"])
    cache.switch("A")
    assert cache.get() == ("A", ["C", "B", "D"])
    cache.switch("X")
    assert cache.get() == (None, ["A", "C", "B"])
    assert cache.record("D").root_count == 0
    cache.cpu.read(GVA)
    assert cache.get() == ("X", ["A", "C", "B"])


def test_switching_between_four_cached_roots_allocates_nothing(machine):
    """The cache holds four roots: a round over four address spaces hits always; over five, never."""
    vm = machine()
    g = Guest(vm)
    tables = [g.page() for _ in range(5)]
    for root in tables:
        g.map(GVA, PAGE_GPA, root=root)
    g.start(cr3=tables[0])
    for n, always in ((4, True), (5, False)):
        for _ in range(2):
            for root in tables[:n]:
                g.cpu.set_cr3(root)
                g.cpu.read(GVA)
        hits, misses, created = vm.stat["root_hit"], vm.stat["root_miss"], vm.stat["mmu_page_created"]
        for _ in range(3):
            for root in tables[:n]:
                g.cpu.set_cr3(root)
                g.cpu.read(GVA)
        assert vm.stat["root_hit"] - hits == (3 * n if always else 0)
        assert vm.stat["root_miss"] - misses == (0 if always else 3 * n)
        # the shadow page cache behind it still has all of them
        assert vm.stat["mmu_page_created"] == created


def test_freed_roots_stay_in_the_cache_of_pages(machine):
    """3.11: a valid root is not zapped when its last reference goes."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, PAGE_GPA)
    g.start()
    g.cpu.read(GVA)
    g.cpu.set_cr4(g.cpu.cr4 | b.CR4_PSE)      # roots unloaded; PSE is not part of a page's role
    assert g.cpu.root.hpa is None
    [root] = pages(vm, g.root)
    assert root.root_count == 0
    misses = vm.stat["mmu_cache_miss"]
    g.cpu.read(GVA)
    assert pages(vm, g.root)[0].id == root.id
    assert vm.stat["mmu_cache_miss"] == misses


def test_pae_root_is_never_cached(machine):
    """Points g, j: the four PDPTEs are looked up again at every CR3 switch, hits in the page cache; pae_root itself is
    never in prev_roots."""
    vm = machine()
    g = Guest(vm, "pae")
    other = g.page()
    g.map(GVA, PAGE_GPA)
    g.map(GVA, PAGE_GPA, root=other)
    g.start()
    for root in (other, g.root):
        g.cpu.set_cr3(root)
        g.cpu.read(GVA)
    misses = vm.stat["mmu_cache_miss"]
    for root in (other, g.root) * 3:
        g.cpu.set_cr3(root)
        g.cpu.read(GVA)
        assert g.cpu.root.hpa == g.cpu.mmu.pae_root << 12
        assert all(r.hpa is None for r in g.cpu.prev_roots)
    assert vm.stat["mmu_cache_miss"] == misses


def test_bits32_root_shadows_four_quadrants(machine):
    """3.11: without PAE each of the four PAE directories shadows a quarter of the guest's page directory."""
    vm = machine()
    g = Guest(vm, "bits32")
    for k in range(4):
        g.map(k << 30 | GVA, PAGE_GPA + 0x1000 * k)
        g.fill(PAGE_GPA + 0x1000 * k, 0x70 + k)
    g.start()
    for k in range(4):
        assert g.cpu.read(k << 30 | GVA) == 0x70 + k
    quadrants = {(sp.role >> 5) & 3: sp for sp in pages(vm, g.root)}
    assert set(quadrants) == {0, 1, 2, 3}
    assert all(sp.level == 2 and sp.root_count == 1 for sp in quadrants.values())


def test_changed_pdpte_makes_a_new_root(machine):
    """C19, 6b123c3a89a9: a PDPTE changes in memory; MOV CR3 with the same value must use the new one."""
    vm = machine()
    g = Guest(vm, "pae")
    g.map(GVA, PAGE_GPA)
    g.fill(PAGE_GPA, 1)
    g.fill(PAGE_GPA + 0x1000, 2)
    g.start()
    assert g.cpu.read(GVA) == 1
    directory, table = g.page(), g.page()
    g.put(table + g.index(GVA, 1) * 8, PAGE_GPA + 0x1000 | 0x67)
    g.put(directory + g.index(GVA, 2) * 8, table | 0x67)
    g.put(g.root, directory | P)
    # the registers still hold the old entry
    assert g.cpu.read(GVA) == 1
    g.cpu.set_cr3(g.cpu.cr3)
    assert g.cpu.read(GVA) == 2


def test_pdptes_are_registers(machine):
    """SDM vol. 3, 4.4.1: a PDPTE made present in memory counts only after MOV CR3."""
    vm = machine()
    g = Guest(vm, "pae")
    g.start()
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert fault.value.error_code == 0
    g.map(GVA, PAGE_GPA)
    with pytest.raises(GuestFault):
        g.cpu.read(GVA)
    g.cpu.set_cr3(g.cpu.cr3)
    g.cpu.read(GVA)


def test_dummy_root(machine):
    """2.3, row "dummy root" (0e3223d8d00a): CR3 outside every slot; faults are the guest's, nothing crashes; the root
    goes when a slot appears there."""
    vm = machine()
    g = Guest(vm)
    hole = 0x2000000
    g.start(cr3=hole)
    with pytest.raises(GuestFault) as fault:
        g.cpu.read(GVA)
    assert (fault.value.vector, fault.value.error_code) == (b.PF, 0)
    assert g.cpu.root.hpa == vm.view.shadow_pfn << 12
    g.map(GVA, PAGE_GPA)
    g.cpu.set_cr3(g.root)
    g.cpu.read(GVA)
    # never cached
    assert all(r.hpa is None for r in g.cpu.prev_roots)


def test_dummy_root_goes_when_memory_appears(machine):
    """2.3, row "dummy root", and 3.4, step 1: once a memslot holds CR3, the next fault asks for a new root."""
    vm = machine(8 << 20)
    g = Guest(vm)
    hole = 12 << 20
    g.start(cr3=hole)
    with pytest.raises(GuestFault):
        g.cpu.read(GVA)
    vm.add_memslot(1, hole, 4096, 0x7FF000)
    g.map(GVA, 0x600000)
    vm.write_gpa(hole, vm.read_gpa(g.root, 4096))
    g.fill(0x600000, 0x77)
    assert g.cpu.read(GVA) == 0x77


def test_triple_fault_before_the_dummy_root(machine):
    """3.13: Linux 6.1 has no dummy root; such a guest shuts down."""
    vm = machine(rules="linux-6.1")
    Guest(vm).start(cr3=0x2000000)
    with pytest.raises(Exception, match="triple fault"):
        vm.vcpus[0].read(GVA)


@pytest.mark.parametrize("rules", ["linux-6.1", "linux-6.12"])
def test_pdpte_without_memory(machine, rules):
    """mmu_alloc_shadow_roots: 6.1 shuts the guest down before any root is made; since 0e3223d8d00a it counts as absent."""
    vm = machine(rules=rules)
    g = Guest(vm, "pae")
    g.map(GVA, PAGE_GPA)
    g.put(g.root + 3 * 8, 0x2000000 | P)
    g.start()
    if rules == "linux-6.1":
        with pytest.raises(Exception, match="triple fault"):
            g.cpu.read(GVA)
        assert vm.shadow_pages == []
    else:
        g.cpu.read(GVA)
        assert [sp.gfn for sp in vm.shadow_pages if sp.root_count] == [g.get(g.root) >> 12]


def test_reusing_the_current_root(machine):
    """Seed 003: a switch to the same root, again and again, neither fills the cache with copies nor evicts."""
    vm = machine()
    cache = Cache(vm)
    cache.set("A", ["B", "C", "D"])
    for _ in range(5):
        assert cache.switch("A")
    assert cache.get() == ("A", ["B", "C", "D"])
    assert cache.record("A").root_count == 1


def test_pcid_is_part_of_the_key(machine):
    """is_root_usable compares the whole pgd, PCID included: the same tables under two PCIDs are two entries for one
    page."""
    vm = machine()
    g = Guest(vm)
    g.cpu.set_cpuid(pcid=True)
    g.map(GVA, PAGE_GPA)
    g.start(cr4=b.CR4_PCIDE)
    for pcid in (1, 2):
        g.cpu.set_cr3(g.root | pcid)
        g.cpu.read(GVA)
    [root] = pages(vm, g.root)
    assert root.root_count == 2 + (g.cpu.prev_roots[1].hpa is not None)
    assert g.cpu.prev_roots[0].hpa == g.cpu.root.hpa


def test_destroying_the_vm_leaves_nothing(machine):
    """kvm_destroy_vm: no page in use, no reference, nothing lost."""
    vm = machine(vcpus=2)
    for k, mode in enumerate(("level4", "pae")):
        g = Guest(vm, mode, cpu=k, first_gfn=0x100 * (k + 1))
        g.map(GVA, PAGE_GPA)
        g.start()
        g.cpu.read(GVA)
    vm.close()
    assert vm.shadow_pages == []
    assert vm.view.n_free_pages == vm.view.n_pages
    assert vm.view.n_used_mmu_pages == 0


def test_table_flags_do_not_matter_to_roots(machine):
    """CR3's PWT and PCD bits are part of the pgd but not of the frame: another entry, the same page."""
    vm = machine()
    g = Guest(vm)
    g.map(GVA, PAGE_GPA)
    g.start()
    g.cpu.read(GVA)
    g.cpu.set_cr3(g.root | 0x18)
    g.cpu.read(GVA)
    [root] = pages(vm, g.root)
    assert root.root_count == 2
