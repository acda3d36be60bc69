# SPDX-License-Identifier: GPL-2.0-or-later
"""Unsync pages: guest page tables that the guest may write without a fault, until it flushes its TLB.

    root  [..1..]  unsync_children = 1      every ancestor has a bit for each child that is, or leads to, an
      |                                     unsync page; unsync_children is the number of bits
      v
    PD    [.1.1.]  unsync_children = 2
      |       |
      v       v
    PT unsync PT unsync                     only level-1 pages are ever unsync themselves

A TLB flush gathers the unsync leaves below the root, at most 16 table entries at a time (`SYNC`), write-protects them,
rereads their gptes and clears the bits on the way up.
"""

from .. import state
from ..state import core, layout
from . import (
    counters,
    events,
    faults,
    geometry,
    rmap,
    roles,
    shadow_pages,
    sptes,
    tracking,
    warn,
    zap,
)

EPERM, EEXIST, ENOSPC = -1, -17, -28
PAGE_ARRAY_NR = layout.PAGE_ARRAY_NR
NO_INDEX = -1


@core
def test_bit(sp, i):
    return (sp.unsync_child_bitmap[i >> 5] >> (i & 31)) & 1


@core
def mark_unsync(vm, sptep):
    """mark_unsync: the table that `sptep` points to is (or leads to) an unsync page; tell all ancestors."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    i = geometry.sptep_index(vm, sptep)
    if test_bit(sp, i):
        return
    sp.unsync_child_bitmap[i >> 5] |= 1 << (i & 31)
    sp.unsync_children += 1
    if sp.unsync_children > 1:
        return
    # the first unsync child: kvm_mmu_mark_parents_unsync
    head = sp.parent_ptes
    if head == 0:
        return
    if not head & 1:
        mark_unsync(vm, (head >> 1) - 1)
        return
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            mark_unsync(vm, desc.sptes[k])
        d = desc.more


@core
def mark_parents_unsync(vm, sp):
    """kvm_mmu_mark_parents_unsync."""
    head = sp.parent_ptes
    if head == 0:
        return
    if not head & 1:
        mark_unsync(vm, (head >> 1) - 1)
        return
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            mark_unsync(vm, desc.sptes[k])
        d = desc.more


@core
def unsync_page(vm, sp):
    """kvm_unsync_page."""
    events.shadow_page(vm, events.UNSYNC_PAGE, sp, 0)
    vm.stat[counters.MMU_UNSYNC] += 1
    vm.stat[counters.MMU_UNSYNCED] += 1
    sp.unsync = 1
    mark_parents_unsync(vm, sp)


@core
def unlink_unsync_page(vm, sp):
    """kvm_unlink_unsync_page."""
    if not sp.unsync:
        warn.warn(vm, 2)
    events.shadow_page(vm, events.SYNC_PAGE, sp, 0)
    sp.unsync = 0
    vm.stat[counters.MMU_UNSYNC] -= 1
    vm.stat[counters.MMU_SYNCED] += 1


@core
def try_to_unsync_pages(vm, slot, gfn, can_unsync, prefetch):
    """mmu_try_to_unsync_pages: 0 if the gfn may be mapped writable, else why not.

    All pages that shadow the gfn, of every role, become unsync together.
    """
    if tracking.gfn_is_write_tracked(vm, slot, gfn):
        return EPERM
    if state.rules(vm).unsync_shortcut and slot >= 0 and tracking.is_nothing_shadowed(vm, slot, gfn):
        return 0
    i = shadow_pages.hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if sp.gfn != gfn or not roles.has_gptes(sp.role) or shadow_pages.is_obsolete(vm, sp):
            continue
        if not can_unsync:
            return EPERM
        if sp.unsync:
            continue
        if prefetch:
            return EEXIST
        if roles.level(sp.role) != 1:
            warn.warn(vm, 6)
        unsync_page(vm, sp)
    return 0


@core
def pages_add(vm, vector, i, index):
    """mmu_pages_add: True when the vector is full now (the page was added all the same)."""
    if state.page(vm, i).unsync:
        for k in range(vector.nr):
            if vector.sp[k] == i:
                return False
    vector.sp[vector.nr] = i
    vector.idx[vector.nr] = index
    vector.nr += 1
    return vector.nr == PAGE_ARRAY_NR


@core
def clear_child_bit(vm, sp, i):
    """clear_unsync_child_bit."""
    sp.unsync_children -= 1
    if sp.unsync_children < 0:
        warn.warn(vm, 3)
    sp.unsync_child_bitmap[i >> 5] &= ~(1 << (i & 31))


@core
def walk_below(vm, i, vector):
    """__mmu_unsync_walk: gather below page `i`; number of leaves, or ENOSPC when the vector is full.

    Bits found to be stale (entry gone, child in order) are cleared on the way.
    """
    sp = state.page(vm, i)
    leaves = 0
    first = geometry.first_sptep(vm, i)
    words = (geometry.entries(vm) + 31) >> 5
    for w in range(words):
        if not sp.unsync_child_bitmap[w]:
            continue
        for b in range(32):
            index = (w << 5) + b
            if not (sp.unsync_child_bitmap[w] >> b) & 1:
                continue
            spte = geometry.read_spte(vm, first + index)
            if not sptes.is_present(spte) or sptes.is_large(spte):
                clear_child_bit(vm, sp, index)
                continue
            c = geometry.frame_to_page(vm, geometry.entry_frame(spte))
            child = state.page(vm, c)
            if child.unsync_children:
                if pages_add(vm, vector, c, index):
                    return ENOSPC
                n = walk_below(vm, c, vector)
                if n == 0:
                    clear_child_bit(vm, sp, index)
                elif n < 0:
                    return n
                else:
                    leaves += n
            elif child.unsync:
                leaves += 1
                if pages_add(vm, vector, c, index):
                    return ENOSPC
            else:
                clear_child_bit(vm, sp, index)
    return leaves


@core
def unsync_walk(vm, i, vector):
    """mmu_unsync_walk: non-zero (also ENOSPC) means that the vector holds something to do."""
    vector.nr = 0
    if not state.page(vm, i).unsync_children:
        return 0
    pages_add(vm, vector, i, NO_INDEX)
    return walk_below(vm, i, vector)


@core
def pages_next(vm, vector, n):
    """mmu_pages_next: next level-1 page after place `n`, remembering the path to it."""
    n += 1
    while n < vector.nr:
        level = roles.level(state.page(vm, vector.sp[n]).role)
        vector.path_idx[level - 1] = vector.idx[n]
        if level == 1:
            break
        vector.parent[level - 2] = vector.sp[n]
        n += 1
    return n


@core
def pages_first(vm, vector):
    """mmu_pages_first."""
    if vector.nr == 0:
        return 0
    level = roles.level(state.page(vm, vector.sp[0]).role)
    vector.parent[level - 2] = vector.sp[0]
    # sentinel: clearing stops above the page where the walk began
    vector.parent[level - 1] = -1
    return pages_next(vm, vector, 0)


@core
def pages_clear_parents(vm, vector):
    """mmu_pages_clear_parents: clear the path's bits upward while a parent has no unsync child left."""
    level = 0
    while True:
        i = vector.parent[level]
        if i < 0:
            return
        sp = state.page(vm, i)
        clear_child_bit(vm, sp, vector.path_idx[level])
        level += 1
        if sp.unsync_children:
            return


@core
def sync_children(vm, vcpu, parent, can_yield):
    """mmu_sync_children: bring every unsync page below `parent` up to date.

    The kernel also stops early when it must reschedule; here nothing else waits for the lock.
    """
    vector = state.sync_vector(vm)
    flushing = False
    while unsync_walk(vm, parent, vector) != 0:
        protected = False
        n = pages_first(vm, vector)
        while n < vector.nr:
            if rmap.vcpu_write_protect_gfn(vm, vcpu, state.page(vm, vector.sp[n]).gfn):
                protected = True
            n = pages_next(vm, vector, n)
        if protected:
            zap.remote_flush_or_zap(vm, True)
            flushing = False
        n = pages_first(vm, vector)
        while n < vector.nr:
            sp = state.page(vm, vector.sp[n])
            unlink_unsync_page(vm, sp)
            if sync_page(vm, vcpu, sp) > 0:
                flushing = True
            pages_clear_parents(vm, vector)
            n = pages_next(vm, vector, n)
    zap.remote_flush_or_zap(vm, flushing)
    return 0


@core
def sync_page_check(vm, vcpu, sp):
    """kvm_sync_page_check: a page can only be synced by an MMU that reads guest tables the same way."""
    ctx = state.context(vm, vcpu.mmu)
    if sp.role & roles.DIRECT or ctx.kind == 0 or (sp.role ^ ctx.root_role) & ~roles.SYNC_IGNORED:
        warn.warn(vm, 7)
        return False
    return True


@core
def sync_page(vm, vcpu, sp):
    """kvm_sync_page: reread all gptes; zaps the page when that fails.  >0: flush, 0: nothing, <0: zapped."""
    flags = 0
    if not sync_page_check(vm, vcpu, sp):
        flags = -1
    else:
        first = geometry.first_sptep(vm, sp.id)
        empty = state.rules(vm).nonpresent_spte
        for i in range(geometry.entries(vm)):
            if geometry.read_spte(vm, first + i) == empty:
                continue
            flags |= faults.sync_spte(vm, vcpu, sp, i)
    if flags < 0:
        zap.prepare_zap_page(vm, sp)
    return flags
