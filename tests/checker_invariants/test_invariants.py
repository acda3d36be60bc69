# SPDX-License-Identifier: GPL-2.0-or-later
"""The invariants themselves: silent on healthy machines, and each finds the damage that it is there for.

A check that cannot fail proves nothing: every one is shown a state broken on purpose (dossier 2.3, 4 I1 to I8).
"""

import random

import pytest
from guest_tables import CR0, NOFLUSH, PAGE, PS, Guest, P

from shadowmmu.checker import entries, invariants
from shadowmmu.mmu import counters, roles
from shadowmmu.rules import RULES
from shadowmmu.state import JIT, interpreted
from shadowmmu.state.store import Config
from shadowmmu.vm import GuestFault, VmError, calls
from shadowmmu.x86 import bits as b

GVA, A_PAGE = 0x400000, 0x800000
MEG2 = 2 << 20
W, HOST_W, MMU_W, PRESENT = 2, 1 << 9, 1 << 10, 1 << 11


def lively(machine, **options):
    """A machine with all kinds of pages: indirect and direct, unsync, MMIO, a shared gfn in a descriptor list."""
    vm = machine(**options)
    g = Guest(vm)
    for k in range(4):
        g.map(GVA + MEG2 * k, A_PAGE)
    g.map(GVA + 0x10000, 0x10000000)
    g.put(g.entry(1 << 30, 2), 0xA00000 | PAGE | PS)
    entry = g.alias(g.entry(GVA))
    g.start()
    for k in range(4):
        g.cpu.write(GVA + MEG2 * k, k)
    g.cpu.read(1 << 30)
    with pytest.raises(VmError):
        g.cpu.read(GVA + 0x10000)
    g.cpu.write(entry + 8, 0)
    other = g.page()
    vm.write_gpa(other, vm.read_gpa(g.root, 4096))
    g.cpu.set_cr3(other)
    g.cpu.read(GVA)
    g.cpu.write(entry + 8, 0)
    assert vm.stat["mmu_unsync"] == 1
    assert invariants.check_all(vm) == []
    assert [k for k in range(invariants.COUNT + 1) if not entries.judge(vm.handle, k)] == []
    return vm, g


def sp(vm, condition):
    """Record of the first shadow page (newest first) that meets the condition."""
    return interpreted.page(vm.view, next(p for p in vm.shadow_pages if condition(p)).id)


def place(vm, record, index):
    return (vm.view.special_frames + record.id << vm.view.level_bits) + index


def spt(vm):
    return interpreted.words(vm.view, vm.view.spt)


def meta(vm, gfn):
    return interpreted.meta(vm.view, interpreted.slot(vm.view, 0).meta + gfn)


def leaf(p):
    return p.level == 1 and not p.direct and any(s & PRESENT for s in p.sptes.values())


def change_spte(vm, condition, change):
    """Change the first present entry of a page."""
    record = sp(vm, condition)
    index = next(i for i, s in vm.shadow_page(record.id).sptes.items() if s & PRESENT)
    table = spt(vm)
    table[place(vm, record, index)] = change(table[place(vm, record, index)])


def _add(record, name, n=1):
    setattr(record, name, getattr(record, name) + n)


def _copy_key(vm):
    leaves = [p for p in vm.shadow_pages if leaf(p)]
    one, two = (interpreted.page(vm.view, p.id) for p in leaves[:2])
    one.gfn, one.role = two.gfn, two.role


def _swap_frames(vm):
    """Two pages' entries exchanged, as a wrong free would."""
    change_spte(vm, leaf, lambda s: s ^ 1 << 12)


def _lose_bit(vm):
    for page in vm.shadow_pages:
        if page.unsync_children:
            record = interpreted.page(vm.view, page.id)
            for w in range(16):
                record.unsync_child_bitmap[w] = 0
            record.unsync_children = 0
            return


def _duplicate_prev(vm):
    ctx = vm.vcpus[0].mmu
    ctx.prev_hpa[2], ctx.prev_pgd[2] = ctx.prev_hpa[0], ctx.prev_pgd[0]


def _special_prev(vm):
    ctx = vm.vcpus[0].mmu
    ctx.prev_hpa[2], ctx.prev_pgd[2] = ctx.pae_root << 12, 0


def _drop_desc(vm):
    vm.view.desc_next += 1


def _lose_page(vm):
    vm.view.n_free_pages -= 1


def _writable_table(vm):
    """A writable mapping of a synced table: take the unsync flag, and its accounting, away."""
    record = sp(vm, lambda p: p.unsync)
    record.unsync = 0


def _unprotect_directory(vm):
    """Give the entry that maps a data page the gfn of a directory."""
    directory = next(p for p in vm.shadow_pages if p.level == 2 and not p.direct)
    record = sp(vm, lambda p: leaf(p) and any(s & W for s in p.sptes.values()))
    index = next(i for i, s in vm.shadow_page(record.id).sptes.items() if s & W)
    interpreted.words32(vm.view, vm.view.translation)[place(vm, record, index)] = directory.gfn << 4 | 7


def _mmio_of_memory(vm):
    record = sp(vm, leaf)
    generation = vm.view.mmio_generation[0]
    spt(vm)[place(vm, record, 100)] = 1 << 51 | P | A_PAGE | generation << 3


DAMAGE = [
    ("unique_keys", _copy_key),
    ("lists", lambda vm: _add(sp(vm, leaf), "next", 0) or setattr(sp(vm, leaf), "prev", 77)),
    ("lists", lambda vm: setattr(sp(vm, leaf), "role", sp(vm, leaf).role | roles.INVALID)),
    ("lists", lambda vm: setattr(sp(vm, leaf), "mmu_valid_gen", 1)),
    ("lists", lambda vm: setattr(sp(vm, leaf), "hash_next", sp(vm, leaf).id)),
    ("lists", lambda vm: setattr(sp(vm, leaf), "gfn", 0x123)),
    ("parents_exact", lambda vm: setattr(sp(vm, leaf), "parent_ptes", 0)),
    ("parents_exact", lambda vm: change_spte(vm, lambda p: p.level == 2 and not p.direct, lambda s: -(1 << 63))),
    ("rmap_exact", lambda vm: change_spte(vm, leaf, lambda s: -(1 << 63))),
    ("rmap_exact", lambda vm: setattr(meta(vm, A_PAGE >> 12), "rmap", 0)),
    ("rmap_exact", _unprotect_directory),
    ("child_roles", lambda vm: setattr(sp(vm, leaf), "role", sp(vm, leaf).role ^ roles.CR0_WP_BIT)),
    ("child_roles", lambda vm: setattr(sp(vm, leaf), "role", sp(vm, leaf).role ^ 1 << roles.SMM_SHIFT)),
    ("direct_pages", lambda vm: _add(sp(vm, lambda p: p.direct), "gfn")),
    ("leaf_sptes", _swap_frames),
    ("leaf_sptes", lambda vm: change_spte(vm, lambda p: leaf(p) and any(s & W for s in p.sptes.values()),
                                          lambda s: (s | W) & ~MMU_W)),
    ("leaf_sptes", lambda vm: change_spte(vm, leaf, lambda s: s | W | MMU_W & ~HOST_W)
     or change_spte(vm, leaf, lambda s: (s | W) & ~HOST_W)),
    ("leaf_sptes", lambda vm: setattr(interpreted.slot(vm.view, 0), "flags", 1)),
    ("leaf_sptes", lambda vm: setattr(interpreted.slot(vm.view, 0), "flags", 2)),
    ("mmio_sptes", _mmio_of_memory),
    ("mmio_sptes", lambda vm: change_spte(vm, leaf, lambda s: s & ~PRESENT)),
    ("write_protection", _writable_table),
    ("write_protection", _unprotect_directory),
    ("tracking_exact", lambda vm: _add(meta(vm, 0x900), "write_track")),
    ("tracking_exact", lambda vm: _add(interpreted.meta2(vm.view, interpreted.slot(vm.view, 0).meta2 + 1),
                                       "disallow_lpage")),
    ("unsync_bits", _lose_bit),
    ("unsync_bits", lambda vm: _add(sp(vm, lambda p: p.level == 4), "unsync_children")),
    ("unsync_bits", lambda vm: setattr(sp(vm, lambda p: p.level == 2 and not p.direct), "unsync", 1)),
    ("root_references", lambda vm: _add(sp(vm, lambda p: p.root_count), "root_count")),
    ("root_references", lambda vm: _add(sp(vm, lambda p: p.root_count), "root_count", -1)),
    ("root_references", _duplicate_prev),
    ("root_cache", _duplicate_prev),
    ("root_cache", _special_prev),
    *(("counters_exact", lambda vm, n=n: vm.view.stat.__setitem__(n, vm.view.stat[n] + 1)) for n in
      (counters.PAGES_4K, counters.PAGES_2M, counters.PAGES_1G, counters.MMU_UNSYNC, counters.NX_LPAGE_SPLITS)),
    ("counters_exact", lambda vm: _add(vm.view, "n_used_mmu_pages")),
    ("counters_exact", lambda vm: _add(vm.view, "indirect_shadow_pages", -1)),
    ("no_leaks", _drop_desc),
    ("no_leaks", _lose_page),
    ("no_leaks", lambda vm: _add(vm.view, "n_free_ram", -1)),
]


@pytest.mark.parametrize("name, damage", DAMAGE, ids=[f"{i}-{name}" for i, (name, _) in enumerate(DAMAGE)])
def test_damage_is_found(machine, name, damage):
    vm, _g = lively(machine)
    machine.do_not_check(vm)
    damage(vm)
    module = getattr(invariants, name)
    assert module.check(vm) != []
    assert not entries.judge(vm.handle, invariants.ALL.index(module) + 1)
    assert not entries.judge(vm.handle, 0)
    assert any(text.startswith(name + ": ") for text in invariants.check_all(vm))


def tree(machine):
    """A machine with nested paging: a TDP MMU tree with tables at every level."""
    vm = machine(mmu="tdp")
    g = Guest(vm)
    g.map(GVA, A_PAGE)
    g.start()
    g.cpu.write(GVA, 1)
    return vm


def tdp_page(vm, level):
    return interpreted.page(vm.view, next(p for p in vm.tdp_pages if p.level == level).id)


def change_tdp_spte(vm, level, change):
    page = next(p for p in vm.tdp_pages if p.level == level)
    at = place(vm, interpreted.page(vm.view, page.id), next(iter(page.sptes)))
    spt(vm)[at] = change(spt(vm)[at])


def _second_root(vm):
    """A root that lost its role bit: two valid roots of one role cannot be told apart."""
    calls.smm_changed(vm.handle, 0, True)
    vm.add_memslot(7, 0, 16 << 20, 0, as_id=1)
    vm.vcpus[0].read(GVA)
    for page in vm.tdp_pages:
        record = interpreted.page(vm.view, page.id)
        record.role &= ~(0xFF << roles.SMM_SHIFT)


TREE_DAMAGE = [
    ("tdp_trees", lambda vm: _add(tdp_page(vm, 2), "ptep")),
    ("tdp_trees", lambda vm: setattr(tdp_page(vm, 2), "ptep", -1)),
    ("tdp_trees", lambda vm: _add(tdp_page(vm, 1), "role", roles.CR0_WP_BIT)),
    ("tdp_trees", lambda vm: setattr(tdp_page(vm, 4), "role", tdp_page(vm, 4).role | roles.INVALID)),
    ("tdp_trees", lambda vm: change_tdp_spte(vm, 3, lambda s: -(1 << 63))),
    ("tdp_trees", lambda vm: vm.view.list_head.__setitem__(3, -1)),
    ("tdp_trees", _second_root),
    ("mmio_sptes", lambda vm: change_tdp_spte(vm, 1, lambda s: -(1 << 63) | 0x5A0)),
    ("direct_pages", lambda vm: _add(tdp_page(vm, 1), "gfn")),
    ("leaf_sptes", lambda vm: change_tdp_spte(vm, 1, lambda s: s ^ 1 << 12)),
    ("root_references", lambda vm: _add(tdp_page(vm, 4), "root_count", -1)),
    ("counters_exact", lambda vm: _add(vm.view, "tdp_mmu_pages")),
    ("counters_exact", lambda vm: change_tdp_spte(vm, 1, lambda s: -(1 << 63))),
]


@pytest.mark.parametrize("name, damage", TREE_DAMAGE, ids=[f"{i}-{name}" for i, (name, _) in enumerate(TREE_DAMAGE)])
def test_damage_to_a_tree_is_found(machine, name, damage):
    vm = tree(machine)
    assert invariants.check_all(vm) == []
    machine.do_not_check(vm)
    damage(vm)
    assert getattr(invariants, name).check(vm) != []


def test_every_invariant_is_shown_damage():
    everything = invariants.ALL
    assert {name for name, _ in DAMAGE + TREE_DAMAGE} == {module.__name__.rpartition(".")[2] for module in everything}


def test_nx_damage(machine):
    """A large executable spte under the iTLB multihit rule, and one larger than the host allows."""
    vm = machine(64 << 20, config=Config(memory_pages=16384, host_level=2))
    g = Guest(vm)
    g.put(g.entry(16 << 20, 2), 16 << 20 | PAGE | PS)
    g.start()
    g.cpu.read(16 << 20)
    machine.do_not_check(vm)
    interpreted.rules(vm.view).nx_huge_pages = 1
    assert any("NX" in text for text in invariants.leaf_sptes.check(vm))
    interpreted.rules(vm.view).max_huge_page_level = 1
    assert any("larger" in text for text in invariants.leaf_sptes.check(vm))


def test_looking_changes_nothing(machine):
    vm, _g = lively(machine)
    before = vm.store.hash()
    invariants.check_all(vm)
    assert vm.store.hash() == before


def test_every_file_says_where_its_rule_comes_from():
    for module in invariants.ALL:
        assert "ossier" in module.__doc__ and callable(module.check)


# ---- random walks

MODES = ["level4", "pae", "bits32", "level5"]


class Walk:
    """A guest that does random things to four address spaces whose tables it can write."""

    def __init__(self, vm, mode, seed):
        self.random = random.Random(f"{mode} {seed}")
        self.vm, self.g, self.mode = vm, Guest(vm, mode), mode
        g = self.g
        self.roots = [g.root] + [g.page() for _ in range(2)]
        self.gvas = [0x400000 * k + 0x1000 * j for k in range(1, 5) for j in (0, 1, 9)]
        self.data = [0x600000 + 0x1000 * k for k in range(4)]
        for root in self.roots:
            for gva in self.gvas:
                g.map(gva, self.random.choice(self.data), root=root)
        targets = sorted({g.entry(gva, level, root) for root in self.roots for gva in self.gvas
                          for level in ((1, 2) if mode != "bits32" else (1,))})
        self.entries = [(gpa, [g.alias(gpa, root) for root in self.roots]) for gpa in targets]
        for cpu in vm.vcpus:
            cpu.set_cpuid(pcid=True)
            cpu.set_sregs(cr0=CR0, cr3=self.roots[0], cr4=g.cr4, efer=g.efer)

    def step(self):
        r, vm, g = self.random, self.vm, self.g
        cpu = r.choice(vm.vcpus)
        what = r.randrange(20)
        if what >= 15 and r.random() < .8:
            # what empties the caches is rare, or nothing lives long enough to go wrong
            what = r.randrange(15)
        try:
            if what < 5:
                cpu.read(r.choice(self.gvas), 4)
            elif what < 7:
                cpu.write(r.choice(self.gvas), r.getrandbits(16), 4)
            elif what < 12:
                gpa, aliases = r.choice(self.entries)
                value = r.choice([g.get(gpa) ^ r.choice([0, 2, 4, 0x20, 0x40]), g.get(gpa) or 0,
                                  r.choice(self.data) | PAGE if gpa else 0])
                cpu.write(r.choice(aliases), value, r.choice([g.size, g.size, 4]))
            elif what == 12:
                cpu.invlpg(r.choice(self.gvas))
            elif what < 15:
                noflush = NOFLUSH if cpu.cr4 & b.CR4_PCIDE and r.random() < .5 else 0
                pcid = r.randrange(3) if cpu.cr4 & b.CR4_PCIDE else 0
                cpu.set_cr3(r.choice(self.roots) | pcid | noflush)
            elif what == 15:
                cpu.set_cr0(cpu.cr0 ^ b.CR0_WP)
            elif what == 16:
                cpu.set_cr4(cpu.cr4 ^ r.choice([b.CR4_PGE, b.CR4_SMEP, b.CR4_SMAP, b.CR4_PCIDE]))
            elif what == 17:
                cpu.set_privilege(r.choice([0, 3]), ac=r.random() < .5)
            elif what == 18:
                vm.unmap_host(r.choice(self.data), 0x1000)
            else:
                r.choice([lambda: calls.zap_all_fast(vm.handle), lambda: vm.log_dirty(0, r.random() < .5),
                          lambda: cpu.enter_smm() if not cpu.record.smm else cpu.leave_smm(),
                          lambda: vm.set_nr_mmu_pages(r.choice([64, 200])),
                          lambda: cpu.invpcid(r.randrange(4), 0, r.choice(self.gvas))])()
        except (GuestFault, VmError):
            pass


#: Interpreted a walk takes twenty seconds: some of them are enough to compare the modes.
WALKS = [(seed, rules) for seed in range(2) for rules in sorted(set(RULES) - {"linux-6.12.0"})
         if JIT or seed == 0 and rules in ("linux-6.1", "linux-7.2")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed, rules", WALKS)
def test_random_walks_keep_all_invariants(machine, mode, rules, seed):
    """Acceptance 6.1, first half: whatever a guest on two vCPUs and its host do, the fixed kernels' state stays in
    order.  Checked often, so that a failure names a recent step."""
    vm = machine(8 << 20, rules=rules, vcpus=2, config=Config(memory_pages=2048, vcpus=2, shadow_pages=512,
                                                             slot_pages=4096))
    vm.add_memslot(1, 0, 8 << 20, 0, as_id=1)
    walk = Walk(vm, mode, seed)
    for n in range(240):
        walk.step()
        if n % 8 == 7:
            assert invariants.check_all(vm) == [], f"after step {n}"
            # all in one pass, now and then each alone, too
            numbers = range(invariants.COUNT + 1) if JIT or n % 80 == 79 else (0,)
            assert all(entries.judge(vm.handle, k) for k in numbers), f"after step {n}"
            assert vm.warning is None, f"after step {n}"
        vm.drain_events()
