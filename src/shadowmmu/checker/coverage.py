# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the MMU's rules took effect in a search: one bit per mark, found by the operation's traces.

    before(vm) --> operation --> reached(vm, before)      counters that moved, roots that turned, sptes that came or went
                                      |
                                 covered |= bits           a new bit: the state enters the pool of the random walk

The MMU is not told: marks are read from what it counts anyway (`mmu/counters.py`), from the roots and generations, and from
the operation.  A mark says that a rule was carried out, not that it was carried out in every way.
"""

from collections import namedtuple

from .. import state
from ..mmu import counters, roots, shadow_pages
from ..state import core
from ..vm import operations
from ..x86.bits import FRAME_SHIFT
from . import area as areas
from . import ops

#: Marks of the VM's counters: (name, counter, at least).
VM_MARKS = (
    ("root found in the cache", counters.ROOT_HIT, 1),
    ("root not in the cache", counters.ROOT_MISS, 1),
    ("shadow page found", counters.MMU_CACHE_HIT, 1),
    ("shadow page not found", counters.MMU_CACHE_MISS, 1),
    ("hash collision", counters.MAX_MMU_PAGE_HASH_COLLISIONS, 1),
    ("shadow page zapped", counters.MMU_SHADOW_ZAPPED, 1),
    ("three shadow pages zapped at once", counters.MMU_SHADOW_ZAPPED, 3),
    ("write to a shadowed table", counters.MMU_PTE_WRITE, 1),
    ("write zapped an upper entry", counters.MMU_PDE_ZAPPED, 1),
    ("page made unsync", counters.MMU_UNSYNCED, 1),
    ("two pages made unsync at once", counters.MMU_UNSYNCED, 2),
    ("page synced", counters.MMU_SYNCED, 1),
    ("two pages synced at once", counters.MMU_SYNCED, 2),
    ("a page with two sptes", counters.MAX_MMU_RMAP_SIZE, 2),
    ("remote flush", counters.REMOTE_TLB_FLUSH, 1),
    ("shadow pages recycled", counters.MMU_RECYCLED, 1),
)
#: Marks of the vCPU's counters.
VCPU_MARKS = (
    ("fault fixed", counters.PF_FIXED, 1),
    ("two faults for one access", counters.PF_TAKEN, 2),
    ("fault emulated", counters.PF_EMULATE, 1),
    ("fault spurious", counters.PF_SPURIOUS, 1),
    ("fast page fault", counters.PF_FAST, 1),
    ("MMIO spte made", counters.PF_MMIO_SPTE_CREATED, 1),
    ("fault injected", counters.PF_GUEST, 1),
    ("flush of this vCPU", counters.TLB_FLUSH, 1),
)
#: The same without names, for the core.
VM_COUNTERS, VCPU_COUNTERS = (tuple(mark[1:] for mark in marks) for marks in (VM_MARKS, VCPU_MARKS))
#: Marks of what was before and is now, in the order of `reached`.
OTHERS = (
    "root: the current one again", "root: cached at depth 0", "root: cached at depth 1", "root: cached at depth 2",
    "root: dummy", "root: special (pae_root)", "root changed by SMM", "root changed by INVPCID",
    "page of a gfn beside one of another role", "page of a gfn beside an obsolete one", "page replaced in one operation",
    "page found while one is unsync", "flooded table zapped", "misaligned write zapped a table", "sync dropped an entry",
    "sync by MOV CR3", "sync by INVLPG or INVPCID", "sync by a flush from elsewhere", "INVLPG while a page is unsync",
    "prefetch", "large page mapped", "page of 1G mapped", "large page taken away", "large page refused (iTLB multihit)",
    "refusal of a large page ended", "all pages obsolete", "new MMIO generation", "MMIO by spte or cache",
    "MMIO by a fault that made the spte", "fault went on under mmu_lock", "fault had to be retried after mmu_lock",
    "notifier took sptes", "notifier while a fault waits", "memslot change took sptes", "dirty log took or protected sptes",
    "VM entry to a cached root", "VM exit to a cached root", "emulated write of a table",
)
NAMES = tuple(mark[0] for mark in VM_MARKS + VCPU_MARKS) + OTHERS
ALL = (1 << len(NAMES)) - 1

Before = namedtuple("Before", "root prev0 prev1 prev2 small large huge refused generation mmio0 mmio1 waiting")


def missing(covered):
    """Names of the marks that are not in a set."""
    return [name for i, name in enumerate(NAMES) if not covered >> i & 1]


@core
def who(op, at):
    """The vCPU of an operation; 0 for the host's."""
    return op[at + 1] if op[at] < ops.HOST_WRITE else 0


@core
def waits(vm, area):
    """Does a vCPU wait for mmu_lock with a fault?  (execute.FAULT)"""
    for v in range(vm.n_vcpus):
        if areas.part(vm, area, v, areas.PENDING)[0] == 1:
            return True
    return False


@core
def before(vm, area, op, at):
    """What `reached` compares with."""
    ctx = state.context(vm, state.vcpu(vm, who(op, at)).mmu)
    return Before(ctx.root_hpa + 0, ctx.prev_hpa[0] + 0, ctx.prev_hpa[1] + 0, ctx.prev_hpa[2] + 0,
                  vm.stat[counters.PAGES_4K] + 0, vm.stat[counters.PAGES_2M] + 0, vm.stat[counters.PAGES_1G] + 0,
                  vm.stat[counters.NX_LPAGE_SPLITS] + 0, vm.mmu_valid_gen + 0, vm.mmio_generation[0] + 0,
                  vm.mmio_generation[1] + 0, 1 if waits(vm, area) else 0)


@core
def beside(vm):
    """Of the newest shadow page: 1 if its gfn has a page of another role, 2 if an obsolete one, 3 if both."""
    newest = state.page(vm, vm.list_head[0])
    found = 0
    i = newest.hash_next
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if sp.gfn == newest.gfn:
            found |= 2 if shadow_pages.is_obsolete(vm, sp) else 1
    return found


@core
def of_roots(vm, vcpu, code, was):
    """Marks of the roots (bits from 0)."""
    ctx = state.context(vm, vcpu.mmu)
    hit = vm.stat[counters.ROOT_HIT] > 0
    now = ctx.root_hpa
    moved = hit and now != was.root
    found = (1 if hit and now == was.root else 0) | (moved and now == was.prev0) << 1 | (moved and now == was.prev1) << 2 \
        | (moved and now == was.prev2) << 3 | (now == roots.dummy_root(vm)) << 4
    if ctx.pae_root and now == ctx.pae_root << FRAME_SHIFT:
        found |= 1 << 5
    changed = now != was.root
    found |= (changed and (code == ops.SMM_ENTER or code == ops.SMM_LEAVE)) << 6
    return found | (code == ops.INVPCID and (changed or ctx.prev_hpa[0] != was.prev0)) << 7


@core
def of_pages(vm, op, at, was):
    """Marks of shadow pages and sptes (bits from 0)."""
    code = op[at]
    stat = vm.stat
    found = 0
    created = stat[counters.MMU_PAGE_CREATED] > 0
    if created and vm.list_head[0] >= 0:
        found = beside(vm)
    found |= (created and stat[counters.MMU_SHADOW_ZAPPED] > 0) << 2
    found |= (stat[counters.MMU_CACHE_HIT] > 0 and stat[counters.MMU_UNSYNC] > 0) << 3
    if stat[counters.MMU_FLOODED] > 0:
        whole = op[at + 2] & 3 == 0 and op[at + 4] >= 4
        found |= 1 << (4 if whole else 5)
    fewer = stat[counters.PAGES_4K] < was.small
    if stat[counters.MMU_SYNCED] > 0:
        by_invalidation = code == ops.INVLPG or code == ops.INVPCID
        found |= fewer << 6 | (code == ops.MOV_CR3) << 7 | by_invalidation << 8
        found |= (code != ops.MOV_CR3 and not by_invalidation) << 9
    return found | (code == ops.INVLPG and stat[counters.MMU_UNSYNC] > 0) << 10


@core
def of_sptes(vm, vcpu, op, at, was):
    """Marks of leaves and generations (bits from 0)."""
    stat = vm.stat
    fixed = vcpu.stat[counters.PF_FIXED]
    found = (fixed > 0 and stat[counters.PAGES_4K] - was.small > fixed) << 0
    found |= (stat[counters.PAGES_2M] > was.large) << 1 | (stat[counters.PAGES_1G] > was.huge) << 2
    found |= (stat[counters.PAGES_2M] < was.large or stat[counters.PAGES_1G] < was.huge) << 3
    found |= (stat[counters.NX_LPAGE_SPLITS] > was.refused) << 4 | (stat[counters.NX_LPAGE_SPLITS] < was.refused) << 5
    found |= (vm.mmu_valid_gen != was.generation) << 6
    return found | (vm.mmio_generation[0] != was.mmio0 or vm.mmio_generation[1] != was.mmio1) << 7


@core
def of_events(vm, area, vcpu, op, at, was):
    """Marks of what went on besides (bits from 0)."""
    code = op[at]
    made = vcpu.stat[counters.PF_MMIO_SPTE_CREATED] > 0
    mmio = code <= ops.STORE and areas.head(vm, area)[areas.OUTCOME] == operations.MMIO
    found = (mmio and not made) << 0 | (mmio and made) << 1
    if code == ops.FINISH:
        found |= (vcpu.stat[counters.PF_TAKEN] == 0) << 2 | (vcpu.stat[counters.PF_TAKEN] > 0) << 3
    fewer = vm.stat[counters.PAGES_4K] + vm.stat[counters.PAGES_2M] < was.small + was.large
    notifier = code == ops.UNMAP or code == ops.MIGRATE
    found |= (notifier and fewer) << 4 | (notifier and was.waiting != 0) << 5
    found |= (ops.SLOT_DELETE <= code <= ops.SLOT_MOVE and fewer) << 6
    logging = ops.DIRTY_LOG <= code <= ops.DIRTY_CLEAR
    found |= (logging and (fewer or vm.stat[counters.REMOTE_TLB_FLUSH_REQUESTS] > 0)) << 7
    hit = vm.stat[counters.ROOT_HIT] > 0
    found |= (code == ops.VM_ENTRY and hit) << 8 | (code == ops.VM_EXIT and hit) << 9
    emulated = code == ops.STORE and op[at + 5] & ops.EMULATED != 0
    return found | (emulated and vm.stat[counters.MMU_PTE_WRITE] > 0) << 10


@core
def reached(vm, area, op, at, was):
    """The marks of the operation that has just been done; its counters have not been forgotten yet."""
    vcpu = state.vcpu(vm, who(op, at))
    found = 0
    for i in range(len(VM_MARKS)):
        counter, least = VM_COUNTERS[i]
        found |= (vm.stat[counter] >= least) << i
    first = len(VM_MARKS)
    for i in range(len(VCPU_MARKS)):
        counter, least = VCPU_COUNTERS[i]
        found |= (vcpu.stat[counter] >= least) << first + i
    first += len(VCPU_MARKS)
    return found | of_roots(vm, vcpu, op[at], was) << first | of_pages(vm, op, at, was) << first + 8 \
        | of_sptes(vm, vcpu, op, at, was) << first + 19 | of_events(vm, area, vcpu, op, at, was) << first + 27
