# SPDX-License-Identifier: GPL-2.0-or-later
"""Deliberately broken MMUs: each replaces one core function before anything runs (interpreted mode).

    python tests/checker/mutants.py hunt NAME SEEDS OPERATIONS     searches with seeds 1..SEEDS: JSON with the minimal script
    python tests/checker/mutants.py replay                         every script below, with and without its mutant: JSON
"""

import json
import os
import sys
from collections import namedtuple

os.environ["SHADOWMMU_JIT"] = "0"

from shadowmmu.checker import known, ops, search  # noqa: E402
from shadowmmu.checker.finding import minimal  # noqa: E402
from shadowmmu.checker.geometry import MACHINES, Arena  # noqa: E402
from shadowmmu.checker.shrink import shrink  # noqa: E402
from shadowmmu.mmu import flush, rmap, roles, roots, sptes, tracking, unsync, walk  # noqa: E402
from shadowmmu.vm import registers  # noqa: E402
from shadowmmu.x86 import bits  # noqa: E402

#: machine, vcpus: where it is hunted; module, function: what is replaced; make(original): by what.
Mutant = namedtuple("Mutant", "machine vcpus module function make what")


def _no_flush(original):
    def update(vm, sptep, new):
        original(vm, sptep, new)
        return False
    return update


def _full_access(original):
    return lambda parent, direct, access, index: original(parent, direct, roles.ACC_ALL, index)


def _no_quadrant(original):
    return lambda parent, direct, access, index: original(parent, direct, access, 0)


def _keep_last(original):
    def find(vm, ctx, new_pgd, new_role):
        last = ctx.prev_hpa[2]
        found = original(vm, ctx, new_pgd, new_role)
        if found:
            ctx.prev_hpa[2] = last
        return found
    return find


def _no_sync(original):
    def invalidate(vm, vcpu, pcid):
        before = vcpu.requests & flush.REQ_MMU_SYNC
        original(vm, vcpu, pcid)
        vcpu.requests = vcpu.requests & ~flush.REQ_MMU_SYNC | before
    return invalidate


def _no_protection(original):
    def account(vm, sp):
        saved, rmap.slot_gfn_write_protect = rmap.slot_gfn_write_protect, lambda *a: False
        original(vm, sp)
        rmap.slot_gfn_write_protect = saved
    return account


def _nothing(original):
    return lambda *arguments: None


def _no_unload(original):
    def post(vm, vcpu, old, new):
        original(vm, vcpu, old | new & bits.CR4_PCIDE, new)
    return post


MUTANTS = {
    "no flush in mmu_spte_update": Mutant("4-level", 1, sptes, "update", _no_flush, "the flush that f81602958c11 asks for"),
    "no mark_unsync": Mutant("4-level", 1, unsync, "mark_parents_unsync", _nothing, "ancestors do not hear of unsync pages"),
    "role without access": Mutant("4-level", 1, roles, "child", _full_access, "CVE-2021-38198 and worse"),
    "wrong quadrant": Mutant("32-bit", 1, roles, "child", _no_quadrant, "both halves of a 4M region share a shadow page"),
    "root stays in the cache": Mutant("pcid", 1, roots, "cached_root_find_without_current", _keep_last,
                                      "the entry that moved up also stays at the end"),
    "no sync on MOV CR3": Mutant("4-level", 1, registers, "invalidate_pcid", _no_sync, "KVM_REQ_MMU_SYNC is forgotten"),
    "new table not protected": Mutant("4-level", 1, tracking, "account_shadowed", _no_protection,
                                      "a writable mapping of the table stays"),
    "rmap not removed": Mutant("4-level", 1, rmap, "remove", _nothing, "the rmap keeps an spte that is gone"),
    "invlpg does not sync": Mutant("4-level", 1, walk, "invalidate_addr_in_root", _nothing, "INVLPG only flushes hardware"),
    "PCIDE set without unload": Mutant("pcid", 1, registers, "post_set_cr4", _no_unload, "without the unload of 509bfe3d9796"),
}


def install(name):
    """Break the MMU of this process; returns a function that mends it."""
    m = MUTANTS[name]
    original = getattr(m.module, m.function)
    setattr(m.module, m.function, m.make(original))
    return lambda: setattr(m.module, m.function, original)


#: What a search and the shrinker came to (the one with PCIDs: the commit message of 509bfe3d9796).
SCRIPTS = {
    "no flush in mmu_spte_update": """v0 store 0x18 = pte(gfn=8, P|W|A|D)
v0 load 0xe0 ac
v0 store 0x28 = pte(gfn=5, P|U|A|D) tlb""",
    "no mark_unsync": """v0 store 0x8 = pte(gfn=13, P|U|A|D)""",
    "role without access": "v0 fetch 0x1c0",
    "wrong quadrant": """v0 fetch 0x160 user
v0 fetch 0x1a0""",
    "root stays in the cache": """v0 mov cr3 = root(gfn=6, pcid=1)
v0 mov cr3 = root(gfn=1, pcid=2)
v0 mov cr3 = root(gfn=14, noflush)
v0 mov cr3 = root(gfn=1, pcid=2)""",
    "no sync on MOV CR3": """v0 store 0x0 = pte(gfn=3, P|W|U|A|D)
v0 mov cr3 = root(gfn=1)""",
    "new table not protected": """v0 store 0x50 = pte(gfn=3, P|W|U|A|D)
v0 fetch 0xe0""",
    "rmap not removed": """v0 store 0x10 = pte(gfn=8, P|W|U)
host memslot delete 1 as=0""",
    "invlpg does not sync": """v0 store 0x8 = pte(gfn=13, P|U|A|D)
v0 invlpg 0x20""",
    "PCIDE set without unload": """v0 mov cr4 = PAE|PGE
v0 mov cr3 = root(gfn=6)
v0 load 0x60
v0 mov cr3 = root(gfn=1)
v0 store 0x18 = pte(gfn=9, P|W|U|A|D)
v0 invpcid 1 pcid=0 0x60
v0 mov cr4 = PAE|PGE|PCIDE
v0 mov cr3 = root(gfn=6, noflush)""",
}


def hunt(name, seeds, operations):
    """Search with the mutant in place: a Finding or None, and the operations it took."""
    mend, m, done = install(name), MUTANTS[name], 0
    try:
        for seed in range(1, seeds + 1):
            finder = search.Search(MACHINES[m.machine], "linux-6.12", m.vcpus, seed, aside=known.mask(known.DEVIATIONS))
            found = finder.random(operations=operations)
            done += finder.progress.operations
            if found:
                return minimal(finder.arena, found), done
        return None, done
    finally:
        mend()


def replay_all():
    """name -> failure without the mutant, failure with it, length of the script, length when shrunk."""
    out = {}
    for name, m in MUTANTS.items():
        rows = ops.parse(SCRIPTS[name]).rows
        sound = search.replay(Arena(MACHINES[m.machine], "linux-6.12", m.vcpus), rows)[0]
        mend = install(name)
        arena = Arena(MACHINES[m.machine], "linux-6.12", m.vcpus)
        failure = search.replay(arena, rows)[0]
        out[name] = [sound, failure, len(rows), len(shrink(arena, rows, failure)) if failure else 0]
        mend()
    return out


if __name__ == "__main__":
    if sys.argv[1] == "replay":
        print(json.dumps(replay_all()))
    else:
        finding, done = hunt(sys.argv[2], *map(int, sys.argv[3:]))
        print(json.dumps({"operations": done, "finding": finding.as_dict() if finding else None}))
