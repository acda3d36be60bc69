# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking shadow pages apart: prepare (unlink everywhere, mark invalid), then commit (flush, free).

    prepare: unsync descendants -> own entries -> parents' entries -> accounting -> invalid list
    commit:  one remote flush for the whole list, then free: no CPU can still walk a freed table

A page that is a root (root_count > 0) is unlinked and marked invalid but lives until its last root is put.
"""

from .. import state
from ..state import core
from . import (
    counters,
    events,
    flush,
    geometry,
    memslots,
    pte_list,
    rmap,
    roles,
    shadow_pages,
    sptes,
    tdp_mmu,
    tracking,
    unsync,
    warn,
)


@core
def drop_parent_pte(vm, sp, sptep):
    """drop_parent_pte: the entry at `sptep` no longer points to `sp`."""
    sp.parent_ptes = pte_list.remove(vm, sp.parent_ptes, sptep)
    sptes.clear_no_track(vm, sptep)


@core
def zap_pte(vm, sp, sptep):
    """mmu_page_zap_pte: clear one entry of `sp`, whatever it is.  Index of a shadow page of L1's nested tables that has
    lost its last parent by it, or -1: such pages are hardly used again and kept for nothing (2de4085cccea)."""
    spte = geometry.read_spte(vm, sptep)
    if sptes.is_present(spte):
        if sptes.is_last(spte, roles.level(sp.role)):
            rmap.drop_spte(vm, sptep)
        else:
            child = state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
            drop_parent_pte(vm, child, sptep)
            if is_orphan(vm, child):
                return child.id
    elif sptes.is_mmio(spte):
        sptes.clear_no_track(vm, sptep)
    return -1


@core
def is_orphan(vm, sp):
    """Of L1's nested tables, without a parent, and (7a2c70e777a0) not a root."""
    rules = state.rules(vm)
    if not rules.tdp_enabled or not sp.role & roles.GUEST_MODE or sp.parent_ptes:
        return False
    return not rules.nested_roots_survive or sp.root_count == 0


@core
def unlink_leaves(vm, sp):
    """kvm_mmu_page_unlink_children of a level-1 page."""
    first = geometry.first_sptep(vm, sp.id)
    for sptep in range(first, first + geometry.entries(vm)):
        zap_pte(vm, sp, sptep)


@core
def unlink_parents(vm, sp):
    """kvm_mmu_unlink_parents.  Bits in the parents' unsync bitmaps stay, stale; a later walk clears them."""
    while sp.parent_ptes:
        drop_parent_pte(vm, sp, pte_list.first(vm, sp.parent_ptes))


@core
def zap_unsync_children(vm, sp):
    """mmu_zap_unsync_children: number of pages zapped."""
    zapped = 0
    if roles.level(sp.role) == 1:
        return 0
    vector = state.sync_vector(vm)
    while unsync.unsync_walk(vm, sp.id, vector) != 0:
        n = unsync.pages_first(vm, vector)
        while n < vector.nr:
            leaf = state.page(vm, vector.sp[n])
            announce(vm, leaf)
            unlink_leaves(vm, leaf)
            detach(vm, leaf)
            unsync.pages_clear_parents(vm, vector)
            zapped += 1
            n = unsync.pages_next(vm, vector, n)
    return zapped


@core
def announce(vm, sp):
    events.shadow_page(vm, events.PREPARE_ZAP_PAGE, sp, 0)
    vm.stat[counters.MMU_SHADOW_ZAPPED] += 1


@core
def unlink_children(vm, sp):
    """kvm_mmu_page_unlink_children: number of orphans of a nested table that went with it, depth first."""
    if roles.level(sp.role) == 1:
        unlink_leaves(vm, sp)
        return 0
    zapped = 0
    first = geometry.first_sptep(vm, sp.id)
    for sptep in range(first, first + geometry.entries(vm)):
        orphan = zap_pte(vm, sp, sptep)
        if orphan >= 0:
            child = state.page(vm, orphan)
            announce(vm, child)
            zapped += zap_unsync_children(vm, child)
            zapped += unlink_children(vm, child)
            zapped += detach(vm, child)
    return zapped


@core
def detach(vm, sp):
    """The part of __kvm_mmu_prepare_zap_page behind the children."""
    zapped = 0
    zapped_root = False
    unlink_parents(vm, sp)
    if not sp.role & roles.INVALID and roles.has_gptes(sp.role):
        tracking.unaccount_shadowed(vm, sp)
    if sp.unsync:
        unsync.unlink_unsync_page(vm, sp)
    if not sp.root_count:
        zapped = 1
        # an invalid root left the active list when it was zapped
        if not sp.role & roles.INVALID:
            shadow_pages.list_del(vm, sp)
        shadow_pages.list_add(vm, shadow_pages.INVALID, sp)
        vm.n_used_mmu_pages -= 1
    else:
        if sp.list != shadow_pages.NO_LIST:
            shadow_pages.list_del(vm, sp)
        zapped_root = not shadow_pages.is_obsolete(vm, sp)
    if sp.nx_huge_page_disallowed:
        unaccount_nx_huge_page(vm, sp)
    sp.role |= roles.INVALID
    if zapped_root:
        # after marking it invalid, or another vCPU may still use it
        flush.make_all_cpus_request(vm, flush.REQ_FREE_OBSOLETE_ROOTS)
    return zapped


@core
def prepare_zap_page(vm, sp):
    """kvm_mmu_prepare_zap_page: number of pages put on the invalid list."""
    announce(vm, sp)
    zapped = zap_unsync_children(vm, sp)
    zapped += unlink_children(vm, sp)
    return zapped + detach(vm, sp)


@core
def prepare_zap_unstable(vm, sp):
    """__kvm_mmu_prepare_zap_page for the list walkers: zapped pages, doubled, plus 1 if the list became unstable
    because descendants were zapped."""
    announce(vm, sp)
    children = zap_unsync_children(vm, sp)
    children += unlink_children(vm, sp)
    total = children + detach(vm, sp)
    return total * 2 + (1 if children else 0)


@core
def commit_zap_page(vm):
    """kvm_mmu_commit_zap_page of the invalid list."""
    if vm.list_head[shadow_pages.INVALID] < 0:
        return
    flush.remote_tlbs(vm)
    while vm.list_head[shadow_pages.INVALID] >= 0:
        sp = state.page(vm, vm.list_head[shadow_pages.INVALID])
        if not sp.role & roles.INVALID or sp.root_count:
            warn.warn(vm, 9)
        shadow_pages.free(vm, sp)


@core
def remote_flush_or_zap(vm, remote_flush):
    """kvm_mmu_remote_flush_or_zap."""
    if vm.list_head[shadow_pages.INVALID] >= 0:
        commit_zap_page(vm)
    elif remote_flush:
        flush.remote_tlbs(vm)


@core
def account_nx_huge_page(vm, sp, possible):
    """account_nx_huge_page: the page exists only because a huge page may not be executable."""
    sp.nx_huge_page_disallowed = 1
    if possible and not sp.nx_listed:
        vm.stat[counters.NX_LPAGE_SPLITS] += 1
        sp.nx_listed = 1
        sp.nx_next = -1
        sp.nx_prev = vm.nx_tail
        if vm.nx_tail >= 0:
            state.page(vm, vm.nx_tail).nx_next = sp.id
        else:
            vm.nx_head = sp.id
        vm.nx_tail = sp.id


@core
def unaccount_nx_huge_page(vm, sp):
    """unaccount_nx_huge_page."""
    sp.nx_huge_page_disallowed = 0
    if not sp.nx_listed:
        return
    vm.stat[counters.NX_LPAGE_SPLITS] -= 1
    sp.nx_listed = 0
    if sp.nx_prev >= 0:
        state.page(vm, sp.nx_prev).nx_next = sp.nx_next
    else:
        vm.nx_head = sp.nx_next
    if sp.nx_next >= 0:
        state.page(vm, sp.nx_next).nx_prev = sp.nx_prev
    else:
        vm.nx_tail = sp.nx_prev


@core
def recovery_is_vain(vm, sp):
    """Does the page's slot, of its own address space (817fa998362d), keep a dirty log?  Asked only while some slot does."""
    logging = False
    for k in range(vm.n_slots):
        logging = logging or state.slot(vm, k).used and memslots.dirty_track_enabled(vm, k)
    if not logging:
        return False
    i = memslots.role_gfn_to_memslot(vm, sp.role, sp.gfn)
    if i < 0:
        warn.warn(vm, 46)
        return False
    return memslots.dirty_track_enabled(vm, i) != 0


@core
def recover_nx_huge_pages(vm, ratio):
    """kvm_recover_nx_huge_pages: zap the oldest 1/ratio of the tables that stand where a huge page could, so that one may
    come back; tables of a slot with a dirty log would only be made again.  Number of tables looked at."""
    if ratio == 0:
        return 0
    flushing = False
    done = 0
    to_zap = (vm.stat[counters.NX_LPAGE_SPLITS] + ratio - 1) // ratio
    while done < to_zap and vm.nx_head >= 0:
        sp = state.page(vm, vm.nx_head)
        if recovery_is_vain(vm, sp):
            unaccount_nx_huge_page(vm, sp)
        elif sp.tdp_mmu_page:
            if tdp_mmu.zap_sp(vm, sp):
                flushing = True
        else:
            prepare_zap_page(vm, sp)
        done += 1
    remote_flush_or_zap(vm, flushing)
    return done


@core
def unprotect_gfn(vm, gfn):
    """The zap of __kvm_mmu_unprotect_gfn_and_retry: every page that shadows `gfn`; True if there was one."""
    i = shadow_pages.hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if sp.gfn == gfn and roles.has_gptes(sp.role) and not shadow_pages.is_obsolete(vm, sp):
            prepare_zap_page(vm, sp)
    zapped = vm.list_head[shadow_pages.INVALID] >= 0
    commit_zap_page(vm)
    return zapped


@core
def zap_obsolete_pages(vm):
    """kvm_zap_obsolete_pages: from the oldest page until the first of the current generation."""
    i = vm.list_tail[shadow_pages.ACTIVE]
    while i >= 0:
        sp = state.page(vm, i)
        if not shadow_pages.is_obsolete(vm, sp):
            break
        before = sp.prev
        if sp.role & roles.INVALID:
            warn.warn(vm, 14)
            i = before
            continue
        if prepare_zap_unstable(vm, sp) & 1:
            i = vm.list_tail[shadow_pages.ACTIVE]
        else:
            i = before
    commit_zap_page(vm)


@core
def zap_all_fast(vm):
    """kvm_mmu_zap_all_fast: flip the generation, tell every vCPU, zap what is old."""
    events.emit(vm, events.ZAP_ALL_FAST, vm.mmu_valid_gen, vm.n_used_mmu_pages)
    vm.mmu_valid_gen = 0 if vm.mmu_valid_gen else 1
    # roots must be invalid before anybody is told to drop them
    tdp_mmu.invalidate_all_roots(vm)
    flush.make_all_cpus_request(vm, flush.REQ_FREE_OBSOLETE_ROOTS)
    zap_obsolete_pages(vm)
    tdp_mmu.zap_invalidated_roots(vm)


@core
def zap_all(vm):
    """kvm_mmu_zap_all: the VM's memory goes away (kvm_arch_flush_shadow_all); roots in use stay, invalid."""
    i = vm.list_head[shadow_pages.ACTIVE]
    while i >= 0:
        sp = state.page(vm, i)
        following = sp.next
        if sp.role & roles.INVALID:
            warn.warn(vm, 14)
            i = following
        elif prepare_zap_unstable(vm, sp) & 1:
            i = vm.list_head[shadow_pages.ACTIVE]
        else:
            i = following
    commit_zap_page(vm)
    tdp_mmu.zap_all(vm)
