# SPDX-License-Identifier: GPL-2.0-or-later
"""The TDP MMU: nested page tables of a guest without nested guests, as plain trees (tdp_mmu.c, kvm.tdp_mmu=Y).

    tdp_mmu_roots --> root (role) --> root (role) ...       one tree per role and address space; all vCPUs share it
                        |  root_count: vCPUs that use it, and one more until the root is invalidated
                        +-- table --+-- table -- leaf sptes
                                    +-- huge leaf spte

Against the shadow pages of the other modules: no hash, no rmap, no parent_ptes, no quota, no generation.  A table has
one parent entry (`ptep`); whoever wants the leaves of a gfn walks every tree (tdp_ranges).  Each change of an entry,
also to and from "frozen", goes through `changed_spte` and is traced as kvm_tdp_mmu_spte_changed.
"""

from .. import state
from ..state import core, layout
from ..x86.bits import FRAME_SHIFT, NX, PT_PAGE_SIZE, PT_WRITABLE
from . import (
    counters,
    events,
    faults,
    flush,
    geometry,
    memslots,
    mmio,
    rmap,
    roles,
    roots,
    shadow_pages,
    sptes,
    tdp_iter,
    warn,
    zap,
)

ROOTS = layout.TDP_ROOT_LIST
ENOMEM = -12


# ---- tables

@core
def alloc_sp(vm, sptep, gfn, role):
    """tdp_mmu_alloc_sp and tdp_mmu_init_sp: index, or -1 when the VM's own capacity is exhausted.  sptep: the entry that
    will point here, -1 for a root."""
    i = shadow_pages.take(vm, role)
    if i < 0:
        return -1
    sp = state.page(vm, i)
    sp.tdp_mmu_page = 1
    sp.ptep = sptep
    sp.gfn = gfn
    sp.role = role
    # these pages have no generation
    sp.mmu_valid_gen = 0
    events.shadow_page(vm, events.GET_PAGE, sp, 1)
    return i


@core
def alloc_child_sp(vm, it):
    """tdp_mmu_init_child_sp: the table below the iterator's entry, not yet linked."""
    return alloc_sp(vm, it.sptep, it.gfn, state.page(vm, geometry.sptep_page(vm, it.sptep)).role - 1)


@core
def unlink_sp(vm, sp):
    """tdp_mmu_unlink_sp."""
    vm.tdp_mmu_pages -= 1
    if sp.nx_huge_page_disallowed:
        zap.unaccount_nx_huge_page(vm, sp)


# ---- roots

@core
def get_root(vm, as_id, role):
    """The valid root with this role, or -1."""
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if sp.role == role and roles.as_id(sp.role) == as_id:
            return i
        i = sp.next
    return -1


@core
def alloc_root(vm, ctx):
    """kvm_tdp_mmu_alloc_root: share the root of this role, or make it.  The MMU itself keeps a reference until the root
    is invalidated (edbdb43fc96b)."""
    role = ctx.root_role
    i = get_root(vm, roles.as_id(role), role)
    if i < 0:
        i = alloc_sp(vm, -1, 0, role)
        if i < 0:
            return roots.ENO_ROOT
        state.page(vm, i).root_count = 1
        shadow_pages.list_add(vm, ROOTS, state.page(vm, i))
    state.page(vm, i).root_count += 1
    ctx.root_hpa = geometry.page_frame(vm, i) << FRAME_SHIFT
    ctx.root_pgd = 0
    return roots.OK


@core
def put_root(vm, sp):
    """kvm_tdp_mmu_put_root: the last reference of an invalid root frees it; its entries are gone by then."""
    sp.root_count -= 1
    if sp.root_count > 0:
        return
    if sp.root_count < 0 or not sp.role & roles.INVALID:
        warn.warn(vm, 24)
        return
    shadow_pages.list_del(vm, sp)
    shadow_pages.give_back(vm, sp)


@core
def invalidate_all_roots(vm):
    """kvm_tdp_mmu_invalidate_all_roots: no vCPU may use them again; zap_invalidated_roots inherits the MMU's reference."""
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if not sp.role & roles.INVALID:
            sp.tdp_scheduled_to_zap = 1
            sp.role |= roles.INVALID
        i = sp.next


@core
def zap_invalidated_roots(vm):
    """kvm_tdp_mmu_zap_invalidated_roots.  No flush: whoever loads a new root flushes."""
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        following = sp.next
        if sp.tdp_scheduled_to_zap:
            sp.tdp_scheduled_to_zap = 0
            zap_root(vm, i, True)
            put_root(vm, sp)
        i = following


@core
def max_gfn_exclusive(vm, root_level):
    """tdp_mmu_max_gfn_exclusive: the host's MAXPHYADDR (40 bits), or all that a scaled-down tree can map."""
    bits = vm.level_bits * root_level
    return 1 << (bits if vm.scaled else min(bits, 28))


@core
def zap_root_level(vm, root, shared, zap_level):
    """__tdp_mmu_zap_root."""
    it = state.tdp_iter(vm)
    tdp_iter.start(vm, it, root, zap_level, 0, max_gfn_exclusive(vm, roles.level(state.page(vm, root).role)))
    while tdp_iter.okay(it):
        if not tdp_iter.cond_resched(vm, it) and sptes.is_present(it.old_spte) and it.level <= zap_level:
            set_spte(vm, it, state.rules(vm).nonpresent_spte, shared)
        tdp_iter.advance(vm, it)


@core
def zap_root(vm, root, shared):
    """tdp_mmu_zap_root: in passes of growing granularity, so that no single step is long (since 6.12: from 4K on)."""
    if state.rules(vm).tdp_zap_from_4k:
        zap_root_level(vm, root, shared, 1)
        zap_root_level(vm, root, shared, 2)
    zap_root_level(vm, root, shared, 3)
    zap_root_level(vm, root, shared, roles.level(state.page(vm, root).role))


@core
def zap_all(vm):
    """kvm_tdp_mmu_zap_all: every entry of every root, invalid ones included."""
    i = vm.list_head[ROOTS]
    while i >= 0:
        zap_root(vm, i, False)
        i = state.page(vm, i).next


@core
def zap_sp(vm, sp):
    """kvm_tdp_mmu_zap_sp: unlink one table (NX huge page recovery); True: flush.

    Since a57750909580 (kvm_tdp_mmu_zap_possible_nx_huge_page) it leaves the list first, and mmu_lock is held for read."""
    shared = state.rules(vm).tdp_nx_recovery_shared != 0
    if shared:
        zap.unaccount_nx_huge_page(vm, sp)
    old = geometry.read_spte(vm, sp.ptep)
    if sp.ptep < 0 or not sptes.is_present(old):
        warn.warn(vm, 26)
        return False
    new = state.rules(vm).nonpresent_spte
    geometry.write_spte(vm, sp.ptep, new)
    changed_spte(vm, roles.as_id(sp.role), sp.gfn, old, new, roles.level(sp.role) + 1, shared)
    return True


# ---- changes

@core
def frozen_spte(vm):
    """FROZEN_SPTE: not present, and nobody else may touch it."""
    return state.rules(vm).frozen_spte


@core
def trace_change(vm, as_id, gfn, level, old, new):
    events.emit(vm, events.TDP_SPTE_CHANGED, as_id, gfn, level, old, new)


@core
def count_leaf(vm, old, new, level):
    """kvm_update_page_stats of handle_changed_spte."""
    was_leaf = sptes.is_present(old) and sptes.is_last(old, level)
    is_leaf = sptes.is_present(new) and sptes.is_last(new, level)
    if was_leaf and is_leaf and geometry.entry_frame(old) != geometry.entry_frame(new):
        warn.warn(vm, 20)
    if was_leaf and not is_leaf:
        rmap.update_page_stats(vm, level, -1)
    elif is_leaf and not was_leaf:
        rmap.update_page_stats(vm, level, 1)


@core
def changed_spte(vm, as_id, gfn, old, new, level, shared):
    """handle_changed_spte: the book-keeping after an entry has changed; a subtree that was cut off is taken apart.

    7.2 tells the change after the subtree is gone, older kernels before."""
    if old == new:
        return
    cut = sptes.is_present(old) and not sptes.is_last(old, level) \
        and (not sptes.is_present(new) or sptes.is_last(new, level))
    last = state.rules(vm).tdp_change_traced_last
    if not cut or not last:
        trace_change(vm, as_id, gfn, level, old, new)
    count_leaf(vm, old, new, level)
    if cut:
        remove_pt(vm, geometry.frame_to_page(vm, geometry.entry_frame(old)), shared)
        if last:
            trace_change(vm, as_id, gfn, level, old, new)


@core
def enter_removed(vm, it, level, child):
    """Begin with one removed table: the head of handle_removed_pt."""
    sp = state.page(vm, child)
    events.shadow_page(vm, events.PREPARE_ZAP_PAGE, sp, 0)
    unlink_sp(vm, sp)
    it.removed_page[level - 1] = child
    it.removed_index[level - 1] = 0


@core
def remove_pt(vm, top, shared):
    """handle_removed_pt and its recursion: freeze every entry of the removed table and of those below, free the tables.

    With mmu_lock shared also empty entries are frozen (and traced): another CPU could fill one just now.
    """
    it = state.tdp_iter(vm)
    as_id = roles.as_id(state.page(vm, top).role)
    top_level = roles.level(state.page(vm, top).role)
    last = state.rules(vm).tdp_change_traced_last
    frozen = frozen_spte(vm)
    level = top_level
    enter_removed(vm, it, level, top)
    while level <= top_level:
        sp = state.page(vm, it.removed_page[level - 1])
        i = it.removed_index[level - 1]
        unit = geometry.pages_per_hpage(vm, level)
        if i == geometry.entries(vm):
            shadow_pages.give_back(vm, sp)
            level += 1
            if level <= top_level and last:
                parent = state.page(vm, it.removed_page[level - 1])
                at = it.removed_index[level - 1] - 1
                trace_change(vm, as_id, parent.gfn + at * geometry.pages_per_hpage(vm, level), level,
                             it.removed_spte[level - 1], frozen)
            continue
        it.removed_index[level - 1] = i + 1
        sptep = geometry.first_sptep(vm, sp.id) + i
        old = geometry.read_spte(vm, sptep)
        if not shared and not sptes.is_present(old):
            continue
        geometry.write_spte(vm, sptep, frozen)
        table = sptes.is_present(old) and not sptes.is_last(old, level)
        if not table or not last:
            trace_change(vm, as_id, sp.gfn + i * unit, level, old, frozen)
        count_leaf(vm, old, frozen, level)
        if table:
            it.removed_spte[level - 1] = old
            level -= 1
            enter_removed(vm, it, level, geometry.frame_to_page(vm, geometry.entry_frame(old)))


@core
def set_spte(vm, it, new, shared):
    """tdp_mmu_iter_set_spte, or with mmu_lock shared tdp_mmu_set_spte_atomic."""
    old = it.old_spte
    geometry.write_spte(vm, it.sptep, new)
    changed_spte(vm, it.as_id, it.gfn, old, new, it.level, shared)


# ---- faults

@core
def link_sp(vm, it, i, shared):
    """tdp_mmu_link_sp."""
    sp = state.page(vm, i)
    set_spte(vm, it, sptes.make_nonleaf(geometry.page_frame(vm, i), sp.role & roles.AD_DISABLED), shared)
    vm.tdp_mmu_pages += 1


@core
def split_spte(vm, huge, role, index):
    """make_huge_page_split_spte: entry `index` of the table that replaces a huge entry."""
    level = roles.level(role)
    child = huge | index * geometry.pages_per_hpage(vm, level) << FRAME_SHIFT
    if level == 1:
        child &= ~PT_PAGE_SIZE
        # a 4K page may be executable again; the mitigation is about huge pages
        if roles.access(role) & roles.ACC_EXEC and state.rules(vm).nx_huge_pages:
            child &= ~NX
    return child


@core
def split_huge_page(vm, it, i, shared):
    """tdp_mmu_split_huge_page: fill table `i` with what the huge entry mapped, and put it in its place."""
    huge = it.old_spte
    sp = state.page(vm, i)
    first = geometry.first_sptep(vm, i)
    for k in range(geometry.entries(vm)):
        geometry.write_spte(vm, first + k, split_spte(vm, huge, sp.role, k))
    link_sp(vm, it, i, shared)
    rmap.update_page_stats(vm, it.level - 1, geometry.entries(vm))
    events.emit(vm, events.SPLIT_HUGE_PAGE, it.gfn, huge, it.level, 0)


@core
def map_target_level(vm, vcpu, f, it):
    """tdp_mmu_map_handle_target_level."""
    sp = state.page(vm, geometry.sptep_page(vm, it.sptep))
    old = it.old_spte
    refused = False
    # 6385d01eec16, ea9fcdf76d3d
    if f.prefetch and state.rules(vm).prefetch_same_pfn_spurious and sptes.is_present(old) and sptes.is_last(old, it.level):
        return faults.SPURIOUS
    if f.slot < 0:
        new = mmio.make_spte(memslots.mmio_generation(vm, vcpu), it.gfn, roles.ACC_ALL)
    else:
        new = sptes.make(vm, vcpu, sp, f.slot, roles.ACC_ALL, it.gfn, f.pfn, old, f.prefetch, True, False, f.map_writable)
        refused = f.map_writable != 0 and not new & PT_WRITABLE
    result = faults.FIXED
    if new == old:
        result = faults.SPURIOUS
    else:
        set_spte(vm, it, new, True)
        if sptes.is_present(old) and not sptes.is_last(old, it.level):
            flush.remote_tlbs_gfn(vm, it.gfn, it.level)
    if refused and f.write:
        result = faults.WRITE_PROTECTED
    if sptes.is_mmio(new):
        vcpu.stat[counters.PF_MMIO_SPTE_CREATED] += 1
        events.emit(vm, events.MARK_MMIO_SPTE, it.sptep, it.gfn, new & roles.ACC_ALL, mmio.spte_generation(new))
        return faults.EMULATE
    events.emit(vm, events.SET_SPTE, it.gfn, new, it.level, it.sptep)
    return result


@core
def map_gfn(vm, vcpu, f):
    """kvm_tdp_mmu_map: tables down to the goal level, then the leaf."""
    faults.hugepage_adjust(vm, f)
    events.emit(vm, events.SPTE_REQUESTED, f.gfn, f.pfn, f.goal_level, roles.ACC_ALL)
    root = roots.root_to_sp(vm, state.context(vm, vcpu.mmu).root_hpa)
    it = state.tdp_iter(vm)
    tdp_iter.start(vm, it, root, 1, f.gfn, f.gfn + 1)
    while tdp_iter.okay(it):
        if f.nx_workaround:
            faults.disallowed_hugepage_adjust(vm, f, it.old_spte, it.level)
        if it.level == f.goal_level:
            return map_target_level(vm, vcpu, f, it)
        huge = sptes.is_present(it.old_spte)
        if huge and not sptes.is_large(it.old_spte):
            tdp_iter.advance(vm, it)
            continue
        i = alloc_child_sp(vm, it)
        if i < 0:
            return ENOMEM
        if huge:
            split_huge_page(vm, it, i, True)
        else:
            link_sp(vm, it, i, True)
        if f.huge_page_disallowed:
            zap.account_nx_huge_page(vm, state.page(vm, i), f.req_level >= it.level)
        tdp_iter.advance(vm, it)
    warn.warn(vm, 18)
    return faults.RETRY
