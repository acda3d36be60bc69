# SPDX-License-Identifier: GPL-2.0-or-later
"""A page fault on the shadow tables: from the guest's entries to a shadow entry.

    #PF(addr, error code)
      walk the guest's tables ........ faults there? inject #PF, retry
      write to a tracked page? ....... WRITE_PROTECTED (emulate)
      find the host page ............. none: MMIO
      ---- mmu_lock ----
      root still good? pages left? ... RETRY, ENOSPC
      fetch: for each level           get_child_sp -> sync it -> gpte unchanged? -> link
             leaf                     mmu_set_spte, prefetch the neighbours

The part before the lock and the part under it are separate functions: two vCPUs may interleave there.
"""

from .. import state
from ..state import core
from ..x86.bits import (
    NX,
    PFERR_FETCH,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PT_PRESENT,
    PT_WRITABLE,
)
from . import (
    access_tracking,
    contexts,
    counters,
    events,
    flush,
    geometry,
    host,
    inject,
    memslots,
    mmio,
    pte_list,
    reclaim,
    rmap,
    roles,
    roots,
    shadow_pages,
    sptes,
    tdp_mmu,
    tracking,
    unsync,
    walk,
    warn,
    zap,
)

CONTINUE, RETRY, EMULATE, WRITE_PROTECTED, INVALID, FIXED, SPURIOUS = range(7)
NOT_A_PAGE, EEXIST = -1, -2
MAX_HUGEPAGE_LEVEL = 3


# ---- one leaf

@core
def set_spte(vm, vcpu, slot, sptep, pte_access, gfn, pfn, host_writable, prefetch, write_fault):
    """mmu_set_spte: FIXED, SPURIOUS, WRITE_PROTECTED, or EMULATE for MMIO."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    level = roles.level(sp.role)
    rules = state.rules(vm)
    old = geometry.read_spte(vm, sptep)
    was_rmapped = False
    flushing = False
    result = FIXED
    if pfn == host.PFN_NOSLOT and not rules.drop_before_mmio_spte:
        # until aad885e77496 (CVE-2026-23401) a present entry was simply overwritten
        vcpu.stat[counters.PF_MMIO_SPTE_CREATED] += 1
        mmio.mark_spte(vm, vcpu, sptep, gfn, pte_access)
        return EMULATE
    if sptes.is_present(old):
        if rules.prefetch_same_pfn_spurious and prefetch and sptes.is_last(old, level) \
                and pfn == geometry.entry_frame(old):
            return SPURIOUS
        if level > 1 and not sptes.is_large(old):
            zap.drop_parent_pte(vm, state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(old))), sptep)
            flushing = True
        elif pfn != geometry.entry_frame(old) or rules.set_spte_looks_at_gfn \
                and rmap.page_get_gfn(vm, sp, geometry.sptep_index(vm, sptep)) != gfn:
            rmap.drop_spte(vm, sptep)
            flushing = True
        else:
            was_rmapped = True
    if pfn == host.PFN_NOSLOT:
        vcpu.stat[counters.PF_MMIO_SPTE_CREATED] += 1
        mmio.mark_spte(vm, vcpu, sptep, gfn, pte_access)
        if flushing:
            flush.remote_tlbs_gfn(vm, gfn, level)
        return EMULATE
    old = geometry.read_spte(vm, sptep)
    spte = sptes.make(vm, vcpu, sp, slot, pte_access, gfn, pfn, old, prefetch, True, False, host_writable)
    refused = pte_access & roles.ACC_WRITE and host_writable and not spte & PT_WRITABLE
    if old == spte:
        result = SPURIOUS
    else:
        if sptes.update(vm, sptep, spte):
            flushing = True
        events.emit(vm, events.SET_SPTE, gfn, spte, level, sptep)
    if refused and write_fault:
        result = WRITE_PROTECTED
    if flushing:
        flush.remote_tlbs_gfn(vm, gfn, level)
    if not was_rmapped:
        if result == SPURIOUS:
            warn.warn(vm, 10)
        rmap.add(vm, slot, sptep, gfn, pte_access)
    else:
        rmap.page_set_access(vm, sp, geometry.sptep_index(vm, sptep), pte_access)
    return result


@core
def prefetch_invalid_gpte(vm, ctx, sptep, gpte):
    """FNAME(prefetch_invalid_gpte): not present, not accessed, or reserved bits set; drops the entry if so."""
    if not walk.is_present(ctx, gpte) or walk.have_ad(ctx) and not gpte & walk.accessed_mask(ctx) \
            or contexts.is_rsvd_bits_set(ctx, gpte, 1):
        rmap.drop_spte(vm, sptep)
        return True
    return False


@core
def prefetch_gpte(vm, vcpu, sp, sptep, gpte, no_dirty_log):
    """FNAME(prefetch_gpte).  no_dirty_log: leave pages alone that would have to be logged as dirty."""
    ctx = state.context(vm, vcpu.mmu)
    if prefetch_invalid_gpte(vm, ctx, sptep, gpte):
        return False
    gfn = walk.gpte_to_gfn(gpte)
    access = walk.protect_clean_gpte(ctx, roles.access(sp.role) & walk.gpte_access(ctx, gpte), gpte)
    slot = memslots.gfn_to_memslot_dirty_bitmap(vm, vcpu, gfn, no_dirty_log and access & roles.ACC_WRITE)
    if slot < 0:
        return False
    pfn = host.gfn_to_pfn_atomic(vm, slot, gfn)
    if pfn < 0:
        return False
    set_spte(vm, vcpu, slot, sptep, access, gfn, pfn, True, True, False)
    return True


@core
def pte_prefetch(vm, vcpu, w, sptep):
    """FNAME(pte_prefetch): fill the aligned group of 8 around a new 4K entry."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if roles.level(sp.role) > 1 or vm.invalidate_in_progress:
        return
    if sp.role & roles.DIRECT:
        direct_prefetch(vm, vcpu, sp, sptep)
        return
    first = sptep & -vm.prefetch_num
    for i in range(vm.prefetch_num):
        if first + i == sptep or sptes.is_present(geometry.read_spte(vm, first + i)):
            continue
        if not prefetch_gpte(vm, vcpu, sp, first + i, w.prefetch_ptes[i], True):
            break


@core
def direct_prefetch_many(vm, vcpu, sp, first, end):
    """direct_pte_prefetch_many: False stops the caller."""
    access = roles.access(sp.role)
    gfn = rmap.page_get_gfn(vm, sp, geometry.sptep_index(vm, first))
    slot = memslots.gfn_to_memslot_dirty_bitmap(vm, vcpu, gfn, access & roles.ACC_WRITE)
    if slot < 0:
        return False
    mapped = 0
    limit = state.slot(vm, slot).base_gfn + state.slot(vm, slot).npages
    while first + mapped < end and gfn + mapped < limit and host.gfn_to_pfn_atomic(vm, slot, gfn + mapped) >= 0:
        mapped += 1
    if mapped == 0:
        return False
    for i in range(mapped):
        set_spte(vm, vcpu, slot, first + i, access, gfn + i, host.gfn_to_pfn_atomic(vm, slot, gfn + i), True, True,
                 False)
    return True


@core
def direct_prefetch(vm, vcpu, sp, sptep):
    """__direct_pte_prefetch: runs of empty entries in the group of 8."""
    group = sptep & -vm.prefetch_num
    start = -1
    for i in range(group, group + vm.prefetch_num):
        if i == sptep or sptes.is_present(geometry.read_spte(vm, i)):
            if start < 0:
                continue
            if not direct_prefetch_many(vm, vcpu, sp, start, i):
                return
            start = -1
        elif start < 0:
            start = i
    if start >= 0:
        direct_prefetch_many(vm, vcpu, sp, start, group + vm.prefetch_num)


# ---- sync of one entry

@core
def sync_spte(vm, vcpu, sp, i):
    """FNAME(sync_spte): reread gpte `i` of a level-1 page.  <0 failed, 0 in order, 1 flush."""
    ctx = state.context(vm, vcpu.mmu)
    size = walk.gpte_size(ctx)
    offset = roles.quadrant(sp.role) << vm.level_bits if size == 4 else 0
    gpte, ok = walk.read_gpte(vm, vcpu, (sp.gfn << vm.page_shift) + (offset + i) * size, size)
    if not ok:
        return -1
    sptep = geometry.first_sptep(vm, sp.id) + i
    if prefetch_invalid_gpte(vm, ctx, sptep, gpte):
        return 1
    gfn = walk.gpte_to_gfn(gpte)
    access = walk.protect_clean_gpte(ctx, roles.access(sp.role) & walk.gpte_access(ctx, gpte), gpte)
    if mmio.sync_spte(vm, vcpu, sptep, gfn, access):
        return 0
    if gfn != rmap.page_get_gfn(vm, sp, i) or ctx.kind == contexts.PAGING_EPT and access == 0:
        # an EPT entry may lose all its access rights without being absent
        rmap.drop_spte(vm, sptep)
        return 1
    if state.rules(vm).sync_skips_same_access and rmap.page_get_access(vm, sp, i) == access:
        return 0
    rmap.page_set_access(vm, sp, i, access)
    old = geometry.read_spte(vm, sptep)
    slot = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    spte = sptes.make(vm, vcpu, sp, slot, access, gfn, geometry.entry_frame(old), old, True, False, True,
                      old & sptes.HOST_WRITABLE != 0)
    return 1 if sptes.update(vm, sptep, spte) else 0


# ---- linking tables

@core
def get_child_sp(vm, vcpu, sptep, gfn, direct, access):
    """kvm_mmu_get_child_sp: index of the table to link, EEXIST if the right one is linked, NOT_A_PAGE out of room.

    "The right one" was any table at all until 2026: a stale one for another gfn (CVE-2026-46113) or with another role
    (CVE-2026-53359) was taken for it.
    """
    spte = geometry.read_spte(vm, sptep)
    parent = state.page(vm, geometry.sptep_page(vm, sptep))
    role = roles.child(parent.role, direct, access, geometry.sptep_index(vm, sptep))
    if sptes.is_present(spte) and not sptes.is_large(spte):
        rules = state.rules(vm)
        child = state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
        if (not rules.child_gfn_must_match or child.gfn == gfn) and \
                (not rules.child_role_must_match or not roles.differ(vm, child.role, role)):
            return EEXIST
    i = shadow_pages.get(vm, vcpu, gfn, role)
    return i if i >= 0 else NOT_A_PAGE


@core
def link_shadow_page(vm, sptep, sp):
    """__link_shadow_page: whatever stood in the entry is zapped first."""
    spte = geometry.read_spte(vm, sptep)
    if sptes.is_present(spte):
        if state.rules(vm).link_zaps_any:
            zap.zap_pte(vm, state.page(vm, geometry.sptep_page(vm, sptep)), sptep)
        else:
            rmap.drop_spte(vm, sptep)
        flush.remote_tlbs_sptep(vm, sptep)
    geometry.write_spte(vm, sptep, sptes.make_nonleaf(geometry.page_frame(vm, sp.id),
                                                      sp.role & roles.AD_DISABLED))
    add_parent_pte(vm, sp, sptep)
    if sp.unsync_children:
        warn.warn(vm, 8)
    if sp.unsync_children or sp.unsync:
        unsync.mark_unsync(vm, sptep)


@core
def add_parent_pte(vm, sp, sptep):
    """mmu_page_add_parent_pte."""
    sp.parent_ptes = pte_list.add(vm, sp.parent_ptes, sptep)


@core
def validate_direct_spte(vm, sptep, direct_access):
    """validate_direct_spte: a direct table with another access is unlinked (9e7b0e7fba45)."""
    spte = geometry.read_spte(vm, sptep)
    if sptes.is_present(spte) and not sptes.is_large(spte):
        child = state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
        if roles.access(child.role) == direct_access:
            return
        zap.drop_parent_pte(vm, child, sptep)
        flush.remote_tlbs_sptep(vm, sptep)


# ---- large pages

@core
def max_mapping_level(vm, slot, gfn, max_level):
    """kvm_mmu_max_mapping_level."""
    level = min(max_level, state.rules(vm).max_huge_page_level)
    while level > 1 and tracking.forbids_large(vm, slot, gfn, level):
        level -= 1
    if level == 1:
        return 1
    return min(host.mapping_level(vm, slot, gfn), level)


@core
def hugepage_adjust(vm, f):
    """kvm_mmu_hugepage_adjust."""
    f.huge_page_disallowed = 1 if f.exec and f.nx_workaround else 0
    if f.max_level == 1 or f.pfn < 0 or memslots.dirty_track_enabled(vm, f.slot):
        return
    f.req_level = max_mapping_level(vm, f.slot, f.gfn, f.max_level)
    if f.req_level == 1 or f.huge_page_disallowed:
        return
    f.goal_level = f.req_level
    f.pfn &= -geometry.pages_per_hpage(vm, f.goal_level)


@core
def disallowed_hugepage_adjust(vm, f, spte, level):
    """disallowed_hugepage_adjust: a table split for the NX workaround is not replaced by a huge page."""
    if level > 1 and level == f.goal_level and sptes.is_present(spte) and not sptes.is_large(spte):
        child = state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
        if child.nx_huge_page_disallowed:
            mask = geometry.pages_per_hpage(vm, level) - geometry.pages_per_hpage(vm, level - 1)
            f.pfn |= f.gfn & mask
            f.goal_level -= 1


# ---- the walk that builds

@core
def fetch(vm, vcpu, f, w):
    """FNAME(fetch): build the shadow of the walk in `w` down to the leaf."""
    ctx = state.context(vm, vcpu.mmu)
    direct_access = w.pte_access
    top = roles.level(ctx.cpu_role)
    if top == 3:
        top = 2
    if walk.gpte_changed(vm, vcpu, ctx, w, top):
        return RETRY
    if ctx.root_hpa == roots.dummy_root(vm):
        vcpu.requests |= flush.REQ_FREE_OBSOLETE_ROOTS
        return RETRY
    walk.shadow_walk_init(vm, vcpu, f, ctx.root_hpa, f.addr)
    while walk.shadow_walk_okay(vm, f):
        state.page(vm, geometry.sptep_page(vm, f.it_sptep)).write_flooding_count = 0
        if f.it_level == w.level:
            break
        table_gfn = w.table_gfn[f.it_level - 2]
        i = get_child_sp(vm, vcpu, f.it_sptep, table_gfn, False, w.pt_access[f.it_level - 2])
        if i == NOT_A_PAGE:
            return roots.ENO_ROOT
        # linking needs no flush by the guest, so the page must be up to date first (65855ed8b034)
        if i >= 0 and state.page(vm, i).unsync_children:
            if unsync.sync_children(vm, vcpu, i, False):
                return RETRY
        if walk.gpte_changed(vm, vcpu, ctx, w, f.it_level - 1):
            return RETRY
        if i >= 0:
            link_shadow_page(vm, f.it_sptep, state.page(vm, i))
        if f.write and table_gfn == f.gfn:
            f.write_fault_to_shadow_pgtable = 1
        walk.shadow_walk_next(vm, f)
    # only now: a table shadowed above may forbid large pages
    hugepage_adjust(vm, f)
    events.emit(vm, events.SPTE_REQUESTED, f.gfn, f.pfn, f.goal_level, direct_access)
    return map_leaf(vm, vcpu, f, w, direct_access, True)


@core
def map_leaf(vm, vcpu, f, w, access, indirect):
    """The direct part of FNAME(fetch) and the body of direct_map: tables that have no guest counterpart, then the
    leaf at the goal level."""
    base_gfn = f.gfn
    while walk.shadow_walk_okay(vm, f):
        if f.nx_workaround:
            disallowed_hugepage_adjust(vm, f, geometry.read_spte(vm, f.it_sptep), f.it_level)
        base_gfn = geometry.round_gfn(vm, f.gfn, f.it_level)
        if f.it_level == f.goal_level:
            break
        if indirect:
            validate_direct_spte(vm, f.it_sptep, access)
        # the table below maps what the entry at this level would
        i = get_child_sp(vm, vcpu, f.it_sptep, base_gfn, True, access)
        if i == NOT_A_PAGE:
            return roots.ENO_ROOT
        if i >= 0:
            link_shadow_page(vm, f.it_sptep, state.page(vm, i))
            if f.huge_page_disallowed:
                zap.account_nx_huge_page(vm, state.page(vm, i), f.req_level >= f.it_level)
        walk.shadow_walk_next(vm, f)
    if f.it_level != f.goal_level:
        warn.warn(vm, 18)
        return RETRY
    result = set_spte(vm, vcpu, f.slot, f.it_sptep, access, base_gfn, f.pfn, f.map_writable, f.prefetch, f.write)
    if result == SPURIOUS:
        return result
    if indirect:
        pte_prefetch(vm, vcpu, w, f.it_sptep)
    else:
        sp = state.page(vm, geometry.sptep_page(vm, f.it_sptep))
        if not sp.role & roles.AD_DISABLED and roles.level(sp.role) == 1 and not vm.invalidate_in_progress:
            direct_prefetch(vm, vcpu, sp, f.it_sptep)
    return result


@core
def direct_map(vm, vcpu, f, w):
    """direct_map."""
    hugepage_adjust(vm, f)
    events.emit(vm, events.SPTE_REQUESTED, f.gfn, f.pfn, f.goal_level, roles.ACC_ALL)
    walk.shadow_walk_init(vm, vcpu, f, state.context(vm, vcpu.mmu).root_hpa, f.addr)
    return map_leaf(vm, vcpu, f, w, roles.ACC_ALL, False)


# ---- the fault

@core
def handle_page_track(vm, f):
    """page_fault_handle_page_track: a write to a page that must stay read-only."""
    return not f.rsvd and f.present and f.write and tracking.gfn_is_write_tracked(vm, f.slot, f.gfn)


@core
def clear_flood(vm, vcpu, addr):
    """shadow_page_table_clear_flood."""
    it = state.fault(vm, vcpu.id * 2 + 1)
    walk.shadow_walk_init(vm, vcpu, it, state.context(vm, vcpu.mmu).root_hpa, addr)
    while walk.shadow_walk_okay(vm, it):
        i = geometry.sptep_page(vm, it.it_sptep)
        if i >= 0:
            state.page(vm, i).write_flooding_count = 0
        walk.shadow_walk_next(vm, it)


@core
def invalidate_retry(vm, seq, gfn):
    """mmu_invalidate_retry_gfn: an MMU notifier event that may concern this gfn is, or was, under way."""
    if vm.invalidate_in_progress and vm.invalidate_start <= gfn < vm.invalidate_end:
        return True
    return vm.invalidate_seq != seq


@core
def faultin_pfn(vm, vcpu, f, access):
    """kvm_faultin_pfn: CONTINUE with f.pfn, or what to do instead."""
    f.mmu_seq = vm.invalidate_seq
    if f.slot < 0:
        # kvm_handle_noslot_fault
        mmio.cache_info(vm, vcpu, 0 if f.is_tdp else f.addr, f.gfn, mmio.is_mmio_access(access))
        f.pfn = host.PFN_NOSLOT
        f.map_writable = 0
        if not vm.mmio_caching or f.gfn >> 40:
            # nothing to remember it by in an entry
            return EMULATE
        return CONTINUE
    slot = state.slot(vm, f.slot)
    if slot.flags & memslots.MEMSLOT_INVALID:
        return RETRY
    if vm.invalidate_in_progress and vm.invalidate_start <= f.gfn < vm.invalidate_end:
        return RETRY
    if slot.flags & memslots.READONLY and f.write:
        return EMULATE
    f.map_writable = 0 if slot.flags & memslots.READONLY else 1
    f.pfn = host.fault_in(vm, memslots.gfn_to_hva(vm, f.slot, f.gfn))
    if f.pfn < 0:
        return host.PFN_ERR_FAULT
    return CONTINUE


@core
def is_stale(vm, vcpu, f):
    """is_page_fault_stale."""
    i = roots.root_to_sp(vm, state.context(vm, vcpu.mmu).root_hpa)
    if i >= 0 and shadow_pages.is_obsolete(vm, state.page(vm, i)):
        return True
    if i < 0 and vcpu.requests & flush.REQ_FREE_OBSOLETE_ROOTS:
        return True
    return f.slot >= 0 and invalidate_retry(vm, f.mmu_seq, f.gfn)


@core
def start(vm, vcpu, f, addr, error_code):
    """The initialisation of struct kvm_page_fault in kvm_mmu_do_page_fault."""
    f.addr = addr
    f.error_code = error_code
    f.exec = 1 if error_code & PFERR_FETCH else 0
    f.write = 1 if error_code & PFERR_WRITE else 0
    f.present = 1 if error_code & PFERR_PRESENT else 0
    f.rsvd = 1 if error_code & PFERR_RSVD else 0
    f.user = 1 if error_code & PFERR_USER else 0
    f.prefetch = 0
    f.is_tdp = 1 if state.rules(vm).tdp_enabled and state.context(vm, vcpu.mmu).root_role & roles.DIRECT else 0
    f.nx_workaround = state.rules(vm).nx_huge_pages
    f.max_level = MAX_HUGEPAGE_LEVEL
    f.req_level = 1
    f.goal_level = 1
    f.gfn = 0
    f.slot = memslots.NONE
    f.pfn = host.PFN_ERR_FAULT
    f.map_writable = 0
    f.huge_page_disallowed = 0
    f.write_fault_to_shadow_pgtable = 0
    if state.context(vm, vcpu.mmu).root_role & roles.DIRECT:
        f.gfn = addr >> vm.page_shift
        f.slot = memslots.vcpu_gfn_to_memslot(vm, vcpu, f.gfn)


@core
def before_lock(vm, vcpu, f):
    """FNAME(page_fault), direct_page_fault up to mmu_lock: CONTINUE, or the result."""
    ctx = state.context(vm, vcpu.mmu)
    if ctx.root_role & roles.DIRECT:
        if not f.is_tdp:
            # nonpaging_page_fault: the tables built here are PAE's, 2M at most
            f.max_level = 2
        if handle_page_track(vm, f):
            return WRITE_PROTECTED
        result = fast_page_fault(vm, vcpu, f)
        if result != INVALID:
            return result
        return faultin_pfn(vm, vcpu, f, roles.ACC_ALL)
    w = walk.walker_of(vm, vcpu, walk.FAULT_WALKER)
    if not walk.walk_addr(vm, vcpu, ctx, w, f.addr, f.error_code & ~PFERR_RSVD):
        if not f.prefetch:
            inject.emulated_page_fault(vm, vcpu, w.fault_error, w.fault_address, w.fault_nested)
        return RETRY
    f.gfn = w.gfn
    f.max_level = w.level
    f.slot = memslots.vcpu_gfn_to_memslot(vm, vcpu, f.gfn)
    if handle_page_track(vm, f):
        clear_flood(vm, vcpu, f.addr)
        return WRITE_PROTECTED
    result = faultin_pfn(vm, vcpu, f, w.pte_access)
    if result != CONTINUE:
        return result
    if f.write and not w.pte_access & roles.ACC_WRITE and not contexts.is_cr0_wp(ctx) and not f.user and f.slot >= 0:
        # CR0.WP=0: the supervisor may write a read-only page; then the user must not see it at all
        w.pte_access |= roles.ACC_WRITE
        w.pte_access &= ~roles.ACC_USER
        if contexts.is_cr4_smep(ctx):
            w.pte_access &= ~roles.ACC_EXEC
    return CONTINUE


@core
def under_lock(vm, vcpu, f):
    """The part of the fault under mmu_lock."""
    rules = state.rules(vm)
    direct = state.context(vm, vcpu.mmu).root_role & roles.DIRECT
    if direct and rules.tdp_mmu_enabled:
        # kvm_tdp_mmu_page_fault; trees have no quota
        return RETRY if is_stale(vm, vcpu, f) else tdp_mmu.map_gfn(vm, vcpu, f)
    # CVE-2026-64561: reclaim may zap the root in use, so "stale?" must be asked after it
    if not rules.stale_check_after_reclaim and is_stale(vm, vcpu, f):
        return RETRY
    if not reclaim.make_pages_available(vm):
        return roots.ENOSPC
    if rules.stale_check_after_reclaim and is_stale(vm, vcpu, f):
        return RETRY
    w = walk.walker_of(vm, vcpu, walk.FAULT_WALKER)
    if direct:
        return direct_map(vm, vcpu, f, w)
    return fetch(vm, vcpu, f, w)


@core
def is_access_allowed(f, spte):
    """is_access_allowed."""
    if not spte & PT_PRESENT:
        return False
    if f.exec:
        return not spte & NX
    if f.write:
        return spte & PT_WRITABLE != 0
    return True


@core
def fast_page_fault(vm, vcpu, f):
    """fast_page_fault (direct MMUs only): a write to an entry that is only write-protected for the dirty log, or the use
    of one that only looks absent because it is old, is fixed without the lock.  INVALID: take the slow path."""
    if f.rsvd:
        return INVALID
    if not (f.write if f.present else not state.rules(vm).ad_enabled):
        # page_fault_can_be_fast
        return INVALID
    it = state.fault(vm, vcpu.id * 2 + 1)
    walk.shadow_walk_init(vm, vcpu, it, state.context(vm, vcpu.mmu).root_hpa, f.addr)
    sptep = -1
    while walk.shadow_walk_okay(vm, it):
        sptep = it.it_sptep
        walk.shadow_walk_next(vm, it)
    result = INVALID
    spte = geometry.read_spte(vm, sptep) if sptep >= 0 else 0
    old = spte
    if sptep >= 0 and sptes.is_present(spte):
        sp = state.page(vm, geometry.sptep_page(vm, sptep))
        level = roles.level(sp.role)
        if sptes.is_last(spte, level):
            if is_access_allowed(f, spte):
                result = SPURIOUS
            else:
                new = access_tracking.restore(spte) if access_tracking.is_tracked(spte) else spte
                protected = f.write and sptes.is_mmu_writable(spte)
                if protected:
                    new |= PT_WRITABLE
                # a huge page of a dirty log must be split, not made writable
                large = level > 1 and f.slot >= 0 and memslots.dirty_track_enabled(vm, f.slot)
                if not (protected and large) and new != spte and is_access_allowed(f, new):
                    # fast_pf_fix_direct_spte
                    geometry.write_spte(vm, sptep, new)
                    if new & PT_WRITABLE and not spte & PT_WRITABLE:
                        memslots.mark_page_dirty_in_slot(vm, f.slot, f.gfn)
                    result = FIXED
    events.emit(vm, events.FAST_PAGE_FAULT, vcpu.id, f.addr, f.error_code, sptep, old,
                geometry.read_spte(vm, sptep) if sptep >= 0 else 0, 1 if result == SPURIOUS else 0,
                1 if result == FIXED else 0)
    if result != INVALID:
        vcpu.stat[counters.PF_FAST] += 1
    return result


@core
def handle_mmio_page_fault(vm, vcpu, addr, direct):
    """handle_mmio_page_fault: a fault with PFEC.RSVD."""
    if mmio.in_cache(vm, vcpu, addr, direct):
        return EMULATE
    it = state.fault(vm, vcpu.id * 2 + 1)
    walk.shadow_walk_init(vm, vcpu, it, state.context(vm, vcpu.mmu).root_hpa, addr)
    spte = 0
    while walk.shadow_walk_okay(vm, it):
        spte = geometry.read_spte(vm, it.it_sptep)
        walk.shadow_walk_next(vm, it)
    if sptes.is_mmio(spte):
        if not mmio.check_spte(vm, vcpu, spte):
            return INVALID
        if direct:
            addr = 0
        events.emit(vm, events.HANDLE_MMIO_PAGE_FAULT, addr, mmio.spte_gfn(spte), mmio.spte_access(spte))
        mmio.cache_info(vm, vcpu, addr, mmio.spte_gfn(spte), mmio.spte_access(spte))
        return EMULATE
    # the table was zapped by another vCPU: fault again
    return RETRY


@core
def begin(vm, vcpu, addr, error_code):
    """kvm_mmu_do_page_fault up to mmu_lock: CONTINUE, or the result."""
    if state.context(vm, vcpu.mmu).root_hpa == roots.INVALID_PAGE:
        warn.warn(vm, 13)
        return RETRY
    vcpu.stat[counters.PF_TAKEN] += 1
    f = state.fault(vm, vcpu.id * 2)
    start(vm, vcpu, f, addr, error_code)
    return before_lock(vm, vcpu, f)


@core
def finish(vm, vcpu):
    """The rest of the fault that `begin` left at CONTINUE."""
    return under_lock(vm, vcpu, state.fault(vm, vcpu.id * 2))


@core
def account(vcpu, result):
    """The counters at the end of kvm_mmu_page_fault."""
    if result == FIXED:
        vcpu.stat[counters.PF_FIXED] += 1
    elif result == EMULATE:
        vcpu.stat[counters.PF_EMULATE] += 1
    elif result == SPURIOUS:
        vcpu.stat[counters.PF_SPURIOUS] += 1

