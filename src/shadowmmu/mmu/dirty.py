# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host does to a VM's memory: memslots come, move and go; dirty logs; pages unmapped behind our back.

    KVM_SET_USER_MEMORY_REGION   create, delete (zap everything), move, dirty log on/off
    KVM_GET_DIRTY_LOG            read and clear the bitmap, write-protect what was dirty
    MMU notifier                 a range of hva loses (or changes) its pages: zap the sptes that map it
    KVM_SET_NR_MMU_PAGES         the quota
"""

from .. import state
from ..state import core
from . import (
    access_tracking,
    flush,
    geometry,
    host,
    memslots,
    mmio,
    reclaim,
    rmap,
    roles,
    tdp_ranges,
    zap,
)

OK, EINVAL, EEXIST, ENOMEM, ENOENT = 0, -22, -17, -12, -2
FLUSH_DUE = 1


@core
def swap_active_memslots(vm, as_id):
    """kvm_swap_active_memslots: the generation moves on; when the part kept in sptes wraps, all MMIO sptes are old."""
    vm.mmio_generation[as_id] += memslots.AS_IDS
    # kvm_mmu_invalidate_mmio_sptes
    if not vm.mmio_generation[as_id] & mmio.GEN_MASK & -memslots.AS_IDS:
        zap.zap_all_fast(vm)


@core
def update_quota(vm):
    """kvm_arch_commit_memory_region: the default quota follows the memslots."""
    if not vm.n_requested_mmu_pages:
        reclaim.change_mmu_pages(vm, reclaim.default_mmu_pages(vm))


@core
def overlaps(vm, as_id, base_gfn, npages, ignore):
    """Does another slot of the address space cover part of the range?"""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if i != ignore and slot.used and slot.as_id == as_id and slot.base_gfn < base_gfn + npages \
                and base_gfn < slot.base_gfn + slot.npages:
            return True
    return False


@core
def find_slot(vm, as_id, slot_id):
    """id_to_memslot."""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used and slot.as_id == as_id and slot.id == slot_id:
            return i
    return memslots.NONE


@core
def create_memslot(vm, as_id, slot_id, base_gfn, npages, hva, flags):
    """KVM_MR_CREATE: 0 or an errno."""
    if overlaps(vm, as_id, base_gfn, npages, memslots.NONE):
        return EEXIST
    i = memslots.create(vm, slot_id, as_id, base_gfn, npages, hva, flags)
    if i < 0:
        return ENOMEM
    swap_active_memslots(vm, as_id)
    update_quota(vm)
    return OK


@core
def invalidate_memslot(vm, i):
    """kvm_invalidate_memslot: no new mappings; all old ones die."""
    slot = state.slot(vm, i)
    slot.flags |= memslots.MEMSLOT_INVALID
    swap_active_memslots(vm, slot.as_id)
    zap.zap_all_fast(vm)


@core
def delete_memslot(vm, as_id, slot_id):
    """KVM_MR_DELETE."""
    i = find_slot(vm, as_id, slot_id)
    if i < 0:
        return ENOENT
    invalidate_memslot(vm, i)
    state.slot(vm, i).used = 0
    swap_active_memslots(vm, as_id)
    update_quota(vm)
    return OK


@core
def move_memslot(vm, as_id, slot_id, base_gfn):
    """KVM_MR_MOVE: same memory, another guest address."""
    i = find_slot(vm, as_id, slot_id)
    if i < 0:
        return ENOENT
    slot = state.slot(vm, i)
    if overlaps(vm, as_id, base_gfn, slot.npages, i):
        return EEXIST
    npages = slot.npages
    hva = slot.hva
    flags = slot.flags
    invalidate_memslot(vm, i)
    slot.used = 0
    if memslots.create(vm, slot_id, as_id, base_gfn, npages, hva, flags) < 0:
        return ENOMEM
    swap_active_memslots(vm, as_id)
    update_quota(vm)
    return OK


@core
def write_protect_slot(vm, i, min_level):
    """kvm_mmu_slot_remove_write_access: entries stay MMU-writable (dirty logging may undo it)."""
    for level in range(min_level, 4):
        for k in range(rmap.slot_pages_at_level(vm, i, level)):
            if level == 1:
                head = state.meta(vm, state.slot(vm, i).meta + k).rmap
            elif level == 2:
                head = state.meta2(vm, state.slot(vm, i).meta2 + k).rmap
            else:
                head = state.meta3(vm, state.slot(vm, i).meta3 + k).rmap
            rmap.write_protect(vm, head, False)
    tdp_ranges.wrprot_slot(vm, i, min_level)


@core
def start_dirty_log(vm, i):
    """kvm_mmu_slot_apply_flags for a log that begins: split what is huge, then make every write show itself."""
    if state.rules(vm).eager_page_split and state.rules(vm).tdp_mmu_enabled:
        tdp_ranges.try_split_huge_pages(vm, i, 1)
    if state.rules(vm).pml:
        # kvm_mmu_slot_leaf_clear_dirty: the hardware logs the pages itself when it sets D
        slot = state.slot(vm, i)
        for k in range(slot.npages):
            rmap.clear_dirty(vm, state.meta(vm, slot.meta + k).rmap)
        tdp_ranges.clear_dirty_slot(vm, i)
        write_protect_slot(vm, i, 2)
    else:
        write_protect_slot(vm, i, 1)


@core
def apply_flags(vm, as_id, slot_id, flags):
    """KVM_MR_FLAGS_ONLY up to the TLB flush: only KVM_MEM_LOG_DIRTY_PAGES may change.  FLUSH_DUE, OK or an errno."""
    i = find_slot(vm, as_id, slot_id)
    if i < 0:
        return ENOENT
    slot = state.slot(vm, i)
    changed = slot.flags ^ flags
    if changed & memslots.READONLY:
        return EINVAL
    if not changed:
        return OK
    slot.flags = flags
    if flags & memslots.LOG_DIRTY_PAGES:
        for k in range(slot.npages):
            state.meta(vm, slot.meta + k).dirty = 0
    swap_active_memslots(vm, as_id)
    update_quota(vm)
    # kvm_mmu_slot_apply_flags
    if flags & memslots.LOG_DIRTY_PAGES:
        start_dirty_log(vm, i)
        return FLUSH_DUE
    recover_huge_pages(vm, i)
    return OK


@core
def set_flags(vm, as_id, slot_id, flags):
    """KVM_MR_FLAGS_ONLY: 0 or an errno."""
    result = apply_flags(vm, as_id, slot_id, flags)
    if result == FLUSH_DUE:
        # mmu_lock was released in between
        flush.remote_tlbs(vm)
        return OK
    return result


@core
def recover_huge_pages(vm, i):
    """kvm_rmap_zap_collapsible_sptes: leaves of direct pages go where a larger one is possible now."""
    flushing = False
    for level in range(1, 3):
        for k in range(rmap.slot_pages_at_level(vm, i, level)):
            while True:
                sptep = collapsible(vm, rmap_of(vm, i, level, k), i)
                if sptep < 0:
                    break
                rmap.drop_spte(vm, sptep)
                if state.rules(vm).hyperv_flush:
                    flush.remote_tlbs_sptep(vm, sptep)
                else:
                    flushing = True
    if flushing:
        flush.remote_tlbs(vm)
    tdp_ranges.recover_huge_pages(vm, i)


@core
def rmap_of(vm, i, level, k):
    """Head of the k-th list of the slot at `level`, 4K or 2M."""
    if level == 1:
        return state.meta(vm, state.slot(vm, i).meta + k).rmap
    return state.meta2(vm, state.slot(vm, i).meta2 + k).rmap


@core
def collapsible(vm, head, i):
    """First spte in the list that a larger one could replace, or -1."""
    if head == 0:
        return -1
    if not head & 1:
        return (head >> 1) - 1 if is_collapsible(vm, (head >> 1) - 1, i) else -1
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            if is_collapsible(vm, desc.sptes[k], i):
                return desc.sptes[k]
        d = desc.more
    return -1


@core
def is_collapsible(vm, sptep, i):
    """kvm_mmu_zap_collapsible_spte: may the table that holds the entry be a large page?"""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if not sp.role & roles.DIRECT:
        return False
    # the kernel asks for the sp's own gfn; it must lie in this slot (ef057cbf825e)
    slot = state.slot(vm, i)
    if not slot.base_gfn <= sp.gfn < slot.base_gfn + slot.npages:
        return False
    level = state.rules(vm).max_huge_page_level
    while level > 1 and memslots.disallow_lpage(vm, i, sp.gfn, level):
        level -= 1
    return min(level, host.mapping_level(vm, i, sp.gfn)) > roles.level(sp.role)


@core
def enable_log_dirty_pt_masked(vm, i, first, mask):
    """kvm_arch_mmu_enable_log_dirty_pt_masked: pages first.. of slot `i` (bit 0 of the mask: the first) are write-protected, or
    clean for PML.  Both kinds of tables: the TDP MMU's, and sptes that the rmap knows."""
    slot = state.slot(vm, i)
    wrprot = not state.rules(vm).pml
    tdp_ranges.clear_dirty_pt_masked(vm, i, slot.base_gfn + first, mask, wrprot)
    for k in range(first, min(first + 64, slot.npages)):
        if (mask >> (k - first)) & 1:
            head = state.meta(vm, slot.meta + k).rmap
            if wrprot:
                rmap.write_protect(vm, head, False)
            else:
                rmap.clear_dirty(vm, head)


@core
def collect_dirty_log(vm, as_id, slot_id, out):
    """KVM_GET_DIRTY_LOG up to the TLB flush: copy the bitmap into words `out` (one per page), clear it, write-protect those
    pages.  Number of dirty pages, or an errno."""
    i = find_slot(vm, as_id, slot_id)
    if i < 0 or not memslots.dirty_track_enabled(vm, i):
        return ENOENT
    slot = state.slot(vm, i)
    dirty = 0
    for word in range(0, slot.npages, 64):
        # one word of the bitmap at a time (kvm_arch_mmu_enable_log_dirty_pt_masked)
        mask = 0
        end = min(word + 64, slot.npages)
        for k in range(word, end):
            meta = state.meta(vm, slot.meta + k)
            out[k] = meta.dirty
            if meta.dirty:
                dirty += 1
                meta.dirty = 0
                mask |= -(1 << 63) if k - word == 63 else 1 << (k - word)
        if mask:
            enable_log_dirty_pt_masked(vm, i, word, mask)
    return dirty


@core
def get_dirty_log(vm, as_id, slot_id, out):
    """KVM_GET_DIRTY_LOG: number of dirty pages, or an errno."""
    dirty = collect_dirty_log(vm, as_id, slot_id, out)
    if dirty > 0:
        # mmu_lock was released in between
        flush.remote_tlbs(vm)
    return dirty


@core
def clear_dirty_log(vm, as_id, slot_id, gfn, npages):
    """KVM_CLEAR_DIRTY_LOG: the pages of a range that are dirty become clean and are write-protected; 0 or an errno."""
    i = find_slot(vm, as_id, slot_id)
    if i < 0 or not memslots.dirty_track_enabled(vm, i):
        return ENOENT
    slot = state.slot(vm, i)
    if gfn < slot.base_gfn or gfn + npages > slot.base_gfn + slot.npages:
        return EINVAL
    flushing = False
    for k in range(gfn - slot.base_gfn, gfn - slot.base_gfn + npages):
        meta = state.meta(vm, slot.meta + k)
        if meta.dirty:
            meta.dirty = 0
            flushing = True
            enable_log_dirty_pt_masked(vm, i, k, 1)
    if flushing:
        flush.remote_tlbs(vm)
    return OK


@core
def age_hva_range(vm, hva, npages):
    """kvm_mmu_notifier_clear_flush_young: were the pages used?  Their sptes become old; a TLB flush follows if so."""
    young = False
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        first = max(hva, slot.hva)
        end = min(hva + npages, slot.hva + slot.npages)
        if slot.used and first < end and age_gfn_range(vm, i, slot.base_gfn + first - slot.hva, slot.base_gfn + end - slot.hva,
                                                       False):
            young = True
    if young:
        flush.remote_tlbs(vm)
    return young


@core
def invalidate_begin(vm, hva, npages):
    """kvm_mmu_notifier_invalidate_range_start: zap what maps the hva range; faults that began earlier will retry."""
    vm.invalidate_in_progress += 1
    zapped = False
    vm.invalidate_start = 1 << 60
    vm.invalidate_end = 0
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used:
            continue
        first = max(hva, slot.hva)
        end = min(hva + npages, slot.hva + slot.npages)
        if first >= end:
            continue
        start = slot.base_gfn + first - slot.hva
        stop = slot.base_gfn + end - slot.hva
        vm.invalidate_start = min(vm.invalidate_start, start)
        vm.invalidate_end = max(vm.invalidate_end, stop)
        if rmap.zap_gfn_range(vm, i, start, stop):
            zapped = True
        if tdp_ranges.zap_leafs(vm, slot.as_id, start, stop, False):
            zapped = True
    if zapped:
        flush.remote_tlbs(vm)


@core
def invalidate_end(vm):
    """kvm_mmu_notifier_invalidate_range_end."""
    vm.invalidate_seq += 1
    vm.invalidate_in_progress -= 1


@core
def unmap_host_pages(vm, hva, npages):
    """The host punches a hole: notifier start, the pages go, notifier end."""
    invalidate_begin(vm, hva, npages)
    for k in range(npages):
        host.unmap(vm, hva + k)
    invalidate_end(vm)


@core
def age_gfn_range(vm, i, start, end, test_only):
    """kvm_age_gfn: were the pages used since the last time?  Clears A unless `test_only`."""
    young = False
    for level in range(1, 4):
        unit = geometry.pages_per_hpage(vm, level)
        gfn = geometry.round_gfn(vm, start, level)
        while gfn < end:
            head = rmap.get(vm, i, max(gfn, state.slot(vm, i).base_gfn), level)
            if age_list(vm, head, test_only):
                young = True
            gfn += unit
    if tdp_ranges.age_gfn_range(vm, state.slot(vm, i).as_id, start, end, test_only):
        young = True
    return young


@core
def age_list(vm, head, test_only):
    if head == 0:
        return False
    if not head & 1:
        return age_spte(vm, (head >> 1) - 1, test_only)
    young = False
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            if age_spte(vm, desc.sptes[k], test_only):
                young = True
        d = desc.more
    return young


@core
def age_spte(vm, sptep, test_only):
    spte = geometry.read_spte(vm, sptep)
    if not access_tracking.is_accessed(spte):
        return False
    if not test_only:
        geometry.write_spte(vm, sptep, access_tracking.mark(spte))
    return True


@core
def set_nr_mmu_pages(vm, n):
    """KVM_SET_NR_MMU_PAGES."""
    if n < reclaim.MIN_ALLOC_MMU_PAGES and not vm.scaled:
        return EINVAL
    reclaim.change_mmu_pages(vm, n)
    vm.n_requested_mmu_pages = n
    return OK
