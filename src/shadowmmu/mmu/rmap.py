# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map: gfn and level -> every leaf spte that maps it.

    META.rmap (4K)   META_LARGE.rmap (2M, 1G)  --pte_list-->  sptep, sptep, ...

Inserting and removing must use the same gfn; it is computed for direct pages and stored per entry for indirect ones
(`translation`).  What breaks when the two differ: CVE-2026-46113.
"""

from .. import state
from ..state import core
from ..x86.bits import PT_DIRTY, PT_WRITABLE
from . import counters, flush, geometry, memslots, pte_list, roles, sptes, tdp_ranges, warn

RECYCLE_THRESHOLD = 1000    # RMAP_RECYCLE_THRESHOLD


@core
def get(vm, i, gfn, level):
    """Head of the list of (slot i, gfn, level) (gfn_to_rmap)."""
    if level == 1:
        return memslots.gfn_meta(vm, i, gfn).rmap
    if level == 2:
        return memslots.large_meta2(vm, i, gfn).rmap
    return memslots.large_meta3(vm, i, gfn).rmap


@core
def put(vm, i, gfn, level, head):
    if level == 1:
        memslots.gfn_meta(vm, i, gfn).rmap = head
    elif level == 2:
        memslots.large_meta2(vm, i, gfn).rmap = head
    else:
        memslots.large_meta3(vm, i, gfn).rmap = head


@core
def page_get_gfn(vm, sp, index):
    """kvm_mmu_page_get_gfn: the gfn that entry `index` of a page maps."""
    if sp.role & roles.PASSTHROUGH:
        return sp.gfn
    if sp.has_translation:
        return (state.words32(vm, vm.translation)[geometry.first_sptep(vm, sp.id) + index] + 0) >> 4
    return sp.gfn + (index << ((roles.level(sp.role) - 1) * vm.level_bits))


@core
def page_get_access(vm, sp, index):
    """kvm_mmu_page_get_access: the guest access of a leaf entry."""
    if sp.has_translation:
        return (state.words32(vm, vm.translation)[geometry.first_sptep(vm, sp.id) + index] + 0) & 0xF
    return roles.access(sp.role)


@core
def page_set_translation(vm, sp, index, gfn, access):
    """kvm_mmu_page_set_translation."""
    if sp.has_translation:
        state.words32(vm, vm.translation)[geometry.first_sptep(vm, sp.id) + index] = gfn << 4 | access
    elif page_get_gfn(vm, sp, index) != gfn:
        warn.warn(vm, 21)


@core
def page_set_access(vm, sp, index, access):
    """kvm_mmu_page_set_access."""
    page_set_translation(vm, sp, index, page_get_gfn(vm, sp, index), access)


@core
def update_page_stats(vm, level, change):
    """kvm_update_page_stats."""
    vm.stat[counters.PAGES_4K + level - 1] += change


@core
def add(vm, i, sptep, gfn, access):
    """rmap_add; recycles the list when it is absurdly long."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    level = roles.level(sp.role)
    page_set_translation(vm, sp, geometry.sptep_index(vm, sptep), gfn, access)
    update_page_stats(vm, level, 1)
    head = get(vm, i, gfn, level)
    # pte_list_add reports the entries before the new one, except 0 for a first and 1 for a second
    count = pte_list.count(vm, head)
    put(vm, i, gfn, level, pte_list.add(vm, head, sptep))
    if count > vm.stat[counters.MAX_MMU_RMAP_SIZE]:
        vm.stat[counters.MAX_MMU_RMAP_SIZE] = count
    if count > RECYCLE_THRESHOLD:
        zap_all(vm, i, gfn, level)
        flush.remote_tlbs_gfn(vm, gfn, level)


@core
def remove(vm, sptep):
    """rmap_remove: take the spte out of the list it was put in."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    gfn = page_get_gfn(vm, sp, geometry.sptep_index(vm, sptep))
    # not in the context of a vCPU: the address space comes from the page's role
    i = memslots.role_gfn_to_memslot(vm, sp.role, gfn)
    if i < 0:
        warn.warn(vm, 17)
        return
    level = roles.level(sp.role)
    put(vm, i, gfn, level, pte_list.remove(vm, get(vm, i, gfn, level), sptep))


@core
def drop_spte(vm, sptep):
    """drop_spte: clear a leaf and forget it."""
    old = sptes.clear_track_bits(vm, sptep)
    if sptes.is_present(old):
        remove(vm, sptep)


@core
def zap_all(vm, i, gfn, level):
    """kvm_zap_all_rmap_sptes: True if there was at least one."""
    head = get(vm, i, gfn, level)
    if head == 0:
        return False
    if not head & 1:
        sptes.clear_track_bits(vm, (head >> 1) - 1)
    else:
        d = (head >> 1) - 1
        while d >= 0:
            desc = state.desc(vm, d)
            for k in range(desc.spte_count):
                sptes.clear_track_bits(vm, desc.sptes[k])
            d = desc.more
        pte_list.free_all(vm, head)
    put(vm, i, gfn, level, 0)
    return True


@core
def spte_write_protect(vm, sptep, pt_protect):
    """spte_write_protect: True when the TLB must be flushed."""
    spte = geometry.read_spte(vm, sptep)
    if not spte & PT_WRITABLE and not (pt_protect and sptes.is_mmu_writable(spte)):
        return False
    if pt_protect:
        spte &= ~sptes.MMU_WRITABLE
    spte &= ~PT_WRITABLE
    return sptes.update(vm, sptep, spte)


@core
def write_protect(vm, head, pt_protect):
    """rmap_write_protect over one list."""
    flushed = False
    if head == 0:
        return False
    if not head & 1:
        return spte_write_protect(vm, (head >> 1) - 1, pt_protect)
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            if spte_write_protect(vm, desc.sptes[k], pt_protect):
                flushed = True
        d = desc.more
    return flushed


@core
def spte_clear_dirty(vm, sptep):
    """spte_clear_dirty, or spte_wrprot_for_clear_dirty where D cannot be used."""
    spte = geometry.read_spte(vm, sptep)
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    bit = PT_WRITABLE if not sptes.ad_enabled(spte) or sp.role & roles.GUEST_MODE else PT_DIRTY
    if spte & bit:
        geometry.write_spte(vm, sptep, spte & ~bit)


@core
def clear_dirty(vm, head):
    """__rmap_clear_dirty over one list: the next write sets D, which the hardware logs (PML)."""
    if head == 0:
        return
    if not head & 1:
        spte_clear_dirty(vm, (head >> 1) - 1)
        return
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            spte_clear_dirty(vm, desc.sptes[k])
        d = desc.more


@core
def slot_gfn_write_protect(vm, i, gfn, min_level):
    """kvm_mmu_slot_gfn_write_protect: no mapping of the gfn stays writable, at any size."""
    flushed = False
    for level in range(min_level, 4):
        if write_protect(vm, get(vm, i, gfn, level), True):
            flushed = True
    if tdp_ranges.write_protect_gfn(vm, i, gfn, min_level):
        flushed = True
    return flushed


@core
def vcpu_write_protect_gfn(vm, vcpu, gfn):
    """kvm_vcpu_write_protect_gfn."""
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    if i < 0:
        warn.warn(vm, 17)
        return False
    changed = slot_gfn_write_protect(vm, i, gfn, 1)
    if state.rules(vm).protect_all_address_spaces:
        other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
        if other >= 0 and slot_gfn_write_protect(vm, other, gfn, 1):
            changed = True
    return changed


@core
def slot_pages_at_level(vm, i, level):
    """Entries of the slot's table for `level`."""
    slot = state.slot(vm, i)
    return memslots.pages_in_level(vm, slot.base_gfn, slot.npages, level)


@core
def zap_gfn_range(vm, i, start, end):
    """__kvm_rmap_zap_gfn_range of slot `i`: True if something was zapped."""
    zapped = False
    for level in range(1, 4):
        unit = geometry.pages_per_hpage(vm, level)
        gfn = geometry.round_gfn(vm, start, level)
        while gfn < end:
            if zap_all(vm, i, max(gfn, state.slot(vm, i).base_gfn), level):
                zapped = True
            gfn += unit
    return zapped
