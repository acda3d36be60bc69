# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow page cache: (gfn, role) -> shadow page, through a hash; and the lists that pages are on.

    bucket hash_64(gfn, 12) -> newest -> ... -> oldest      (hash_next; chains hold all roles of a gfn)
    active list: head = newest ... tail = oldest            (FIFO: reclaim and zap-obsolete work from the tail)

Seed 004 introduced it (cea0f0e7ea54, 2007); the role decides whether two uses of a guest table may share a page.
"""

from .. import state
from ..state import core, layout
from . import counters, events, flush, geometry, roles, tracking, unsync, warn, zap

ACTIVE, INVALID, OBSOLETE, TDP_ROOTS, NO_LIST = (layout.ACTIVE_LIST, layout.INVALID_LIST, layout.OBSOLETE_LIST,
                                                 layout.TDP_ROOT_LIST, layout.NO_LIST)


@core
def hash_bucket(vm, gfn):
    """kvm_page_table_hashfn: hash_64(gfn, KVM_MMU_HASH_SHIFT); scaled-down tables use fewer of its bits."""
    return ((gfn * 0x61C8864680B583EB) >> 52) & (vm.n_hash - 1)


@core
def hash_first(vm, gfn):
    """First page of the bucket of `gfn`, or -1."""
    return state.words(vm, vm.hash)[hash_bucket(vm, gfn)]


@core
def list_add(vm, which, sp):
    """list_add: to the head."""
    head = vm.list_head[which]
    sp.list = which
    sp.prev = -1
    sp.next = head
    if head >= 0:
        state.page(vm, head).prev = sp.id
    else:
        vm.list_tail[which] = sp.id
    vm.list_head[which] = sp.id


@core
def list_del(vm, sp):
    """list_del."""
    which = sp.list
    if sp.prev >= 0:
        state.page(vm, sp.prev).next = sp.next
    else:
        vm.list_head[which] = sp.next
    if sp.next >= 0:
        state.page(vm, sp.next).prev = sp.prev
    else:
        vm.list_tail[which] = sp.prev
    sp.list = NO_LIST
    sp.next = -1
    sp.prev = -1


@core
def is_obsolete(vm, sp):
    """is_obsolete_sp; pages of the TDP MMU have no generation."""
    return sp.role & roles.INVALID != 0 or not sp.tdp_mmu_page and sp.mmu_valid_gen != vm.mmu_valid_gen


@core
def find(vm, vcpu, gfn, role):
    """kvm_mmu_find_shadow_page: index, or -1.

    A miss for an upper-level page zaps unsync pages of the gfn: the new page will be write-protected, so none may
    stay unsync (ddc16abbbae9).  A hit that is unsync is reread but stays unsync.
    """
    found = -1
    collisions = 0
    i = hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if is_obsolete(vm, sp):
            continue
        if sp.gfn != gfn:
            collisions += 1
            continue
        if roles.differ(vm, sp.role, role):
            if roles.level(role) > 1 and sp.unsync:
                zap.prepare_zap_page(vm, sp)
            continue
        if sp.role & roles.DIRECT:
            found = sp.id
            break
        if sp.unsync:
            flags = unsync.sync_page(vm, vcpu, sp)
            if flags < 0:
                break
            if flags > 0:
                flush.remote_tlbs(vm)
        sp.write_flooding_count = 0
        found = sp.id
        break
    if found < 0:
        vm.stat[counters.MMU_CACHE_MISS] += 1
    else:
        vm.stat[counters.MMU_CACHE_HIT] += 1
    zap.commit_zap_page(vm)
    if collisions > vm.stat[counters.MAX_MMU_PAGE_HASH_COLLISIONS]:
        vm.stat[counters.MAX_MMU_PAGE_HASH_COLLISIONS] = collisions
    return found


@core
def take(vm, role):
    """A page with an empty table, on no list: index, or -1 when the VM's own capacity is exhausted."""
    if vm.n_free_pages == 0:
        warn.warn(vm, 11)
        return -1
    vm.n_free_pages -= 1
    i = state.words(vm, vm.free_pages)[vm.n_free_pages]
    sp = state.page(vm, i)
    sp.in_use = 1
    sp.unsync = 0
    sp.unsync_children = 0
    sp.root_count = 0
    sp.write_flooding_count = 0
    sp.parent_ptes = 0
    sp.nx_huge_page_disallowed = 0
    sp.nx_listed = 0
    sp.tdp_mmu_page = 0
    sp.ptep = 0
    sp.tdp_scheduled_to_zap = 0
    for w in range(layout.BITMAP_WORDS):
        sp.unsync_child_bitmap[w] = 0
    sp.has_translation = 1 if not role & roles.DIRECT and roles.level(role) <= 3 else 0
    empty = state.rules(vm).nonpresent_spte
    first = geometry.first_sptep(vm, i)
    table = state.words(vm, vm.spt)
    for k in range(first, first + geometry.entries(vm)):
        table[k] = empty
    vm.stat[counters.MMU_PAGE_CREATED] += 1
    return i


@core
def alloc(vm, gfn, role):
    """kvm_mmu_alloc_shadow_page: index, or -1 when the VM's own capacity is exhausted."""
    i = take(vm, role)
    if i < 0:
        return -1
    sp = state.page(vm, i)
    sp.mmu_valid_gen = vm.mmu_valid_gen
    list_add(vm, ACTIVE, sp)
    vm.n_used_mmu_pages += 1
    sp.gfn = gfn
    sp.role = role
    bucket = hash_bucket(vm, gfn)
    head = state.words(vm, vm.hash)[bucket]
    sp.hash_next = head
    sp.hash_prev = -1
    if head >= 0:
        state.page(vm, head).hash_prev = i
    state.words(vm, vm.hash)[bucket] = i
    if roles.has_gptes(role):
        tracking.account_shadowed(vm, sp)
    return i


@core
def free(vm, sp):
    """kvm_mmu_free_shadow_page."""
    if sp.hash_prev >= 0:
        state.page(vm, sp.hash_prev).hash_next = sp.hash_next
    else:
        state.words(vm, vm.hash)[hash_bucket(vm, sp.gfn)] = sp.hash_next
    if sp.hash_next >= 0:
        state.page(vm, sp.hash_next).hash_prev = sp.hash_prev
    list_del(vm, sp)
    sp.hash_next = -1
    sp.hash_prev = -1
    give_back(vm, sp)


@core
def give_back(vm, sp):
    """The page is free again (tdp_mmu_free_sp, the end of kvm_mmu_free_shadow_page)."""
    sp.in_use = 0
    sp.tdp_mmu_page = 0
    sp.gfn = 0
    sp.role = 0
    state.words(vm, vm.free_pages)[vm.n_free_pages] = sp.id
    vm.n_free_pages += 1


@core
def get(vm, vcpu, gfn, role):
    """kvm_mmu_get_shadow_page: find or make; index, or -1 when out of capacity."""
    created = 0
    i = find(vm, vcpu, gfn, role)
    if i < 0:
        created = 1
        i = alloc(vm, gfn, role)
        if i < 0:
            return -1
    events.shadow_page(vm, events.GET_PAGE, state.page(vm, i), created)
    return i
