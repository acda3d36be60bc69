# SPDX-License-Identifier: GPL-2.0-or-later
"""gfn -> memslot -> hva, and what a slot keeps about each gfn.

    slot: base_gfn, npages, hva, flags      meta[gfn]   rmap, write_track, dirty
                                            meta2[2M]   rmap, disallow_lpage
                                            meta3[1G]   rmap, disallow_lpage

Address space 1 is what a vCPU in system management mode sees (kvm_arch_nr_memslot_as_ids() is 2).
"""

from .. import state
from ..state import core
from . import geometry, roles, warn

LOG_DIRTY_PAGES, READONLY, MEMSLOT_INVALID = 1, 2, 1 << 16
AS_IDS = 2
NONE = -1


@core
def gfn_to_memslot(vm, as_id, gfn):
    """__gfn_to_memslot: index of the slot, or NONE."""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used and slot.as_id == as_id and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            return i
    return NONE


@core
def vcpu_gfn_to_memslot(vm, vcpu, gfn):
    """kvm_vcpu_gfn_to_memslot."""
    return gfn_to_memslot(vm, 1 if vcpu.smm else 0, gfn)


@core
def role_gfn_to_memslot(vm, role, gfn):
    """The slot of `gfn` in the address space of pages with `role` (kvm_memslots_for_spte_role)."""
    return gfn_to_memslot(vm, roles.as_id(role), gfn)


@core
def is_visible(vm, i):
    """kvm_is_visible_memslot."""
    return i >= 0 and not state.slot(vm, i).flags & MEMSLOT_INVALID


@core
def dirty_track_enabled(vm, i):
    """kvm_slot_dirty_track_enabled."""
    return state.slot(vm, i).flags & LOG_DIRTY_PAGES


@core
def gfn_to_memslot_dirty_bitmap(vm, vcpu, gfn, no_dirty_log):
    """The slot, unless it is unusable or (no_dirty_log) keeps a dirty log: prefetch must not dirty pages."""
    i = vcpu_gfn_to_memslot(vm, vcpu, gfn)
    if i < 0 or state.slot(vm, i).flags & MEMSLOT_INVALID:
        return NONE
    if no_dirty_log and dirty_track_enabled(vm, i):
        return NONE
    return i


@core
def gfn_to_hva(vm, i, gfn):
    """Page index in the host's address space."""
    slot = state.slot(vm, i)
    return slot.hva + gfn - slot.base_gfn


@core
def gfn_index(vm, slot, gfn, level):
    """gfn_to_index: place of the gfn in the slot's table for `level`."""
    shift = vm.level_bits * (level - 1)
    index = (gfn >> shift) - (slot.base_gfn >> shift)
    if index < 0 or gfn >= slot.base_gfn + slot.npages:
        warn.warn(vm, 41)
        return 0
    return index


@core
def gfn_meta(vm, i, gfn):
    """The META record of `gfn` in slot `i`."""
    slot = state.slot(vm, i)
    return state.meta(vm, slot.meta + gfn - slot.base_gfn)


@core
def large_meta2(vm, i, gfn):
    """The META_LARGE record of the 2M page that holds `gfn`."""
    slot = state.slot(vm, i)
    return state.meta2(vm, slot.meta2 + gfn_index(vm, slot, gfn, 2))


@core
def large_meta3(vm, i, gfn):
    """The META_LARGE record of the 1G page that holds `gfn`."""
    slot = state.slot(vm, i)
    return state.meta3(vm, slot.meta3 + gfn_index(vm, slot, gfn, 3))


@core
def disallow_lpage(vm, i, gfn, level):
    """linfo->disallow_lpage at `level` (2 or 3)."""
    if level == 2:
        return large_meta2(vm, i, gfn).disallow_lpage
    return large_meta3(vm, i, gfn).disallow_lpage


@core
def mark_page_dirty_in_slot(vm, i, gfn):
    """mark_page_dirty_in_slot: remember the gfn if the slot keeps a dirty log."""
    if i >= 0 and state.slot(vm, i).flags & LOG_DIRTY_PAGES:
        gfn_meta(vm, i, gfn).dirty = 1


@core
def mark_page_dirty(vm, vcpu, gfn):
    """kvm_vcpu_mark_page_dirty."""
    mark_page_dirty_in_slot(vm, vcpu_gfn_to_memslot(vm, vcpu, gfn), gfn)


@core
def mmio_generation(vm, vcpu):
    """Generation of the memslots that this vCPU sees now."""
    return vm.mmio_generation[1 if vcpu.smm else 0]


@core
def round_up(value, unit):
    return (value + unit - 1) // unit * unit


@core
def pages_in_level(vm, base_gfn, npages, level):
    """__kvm_mmu_slot_lpages: entries that the slot needs at `level`."""
    shift = vm.level_bits * (level - 1)
    return ((base_gfn + npages - 1) >> shift) - (base_gfn >> shift) + 1


@core
def range_free(vm, level, at, count):
    """True when no used slot has metadata of `level` in [at, at + count)."""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used:
            first = slot.meta if level == 1 else slot.meta2 if level == 2 else slot.meta3
            n = pages_in_level(vm, slot.base_gfn, slot.npages, level)
            if first < at + count and at < first + n:
                return False
    return True


@core
def find_room(vm, level, count):
    """First-fit place for `count` metadata records of `level`, or -1."""
    limit = vm.n_meta if level == 1 else vm.n_meta2 if level == 2 else vm.n_meta3
    best = -1
    if count <= limit and range_free(vm, level, 0, count):
        return 0
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used:
            first = slot.meta if level == 1 else slot.meta2 if level == 2 else slot.meta3
            at = first + pages_in_level(vm, slot.base_gfn, slot.npages, level)
            if at + count <= limit and (best < 0 or at < best) and range_free(vm, level, at, count):
                best = at
    return best


@core
def create(vm, slot_id, as_id, base_gfn, npages, hva, flags):
    """Bring a slot into being (kvm_alloc_memslot_metadata); returns its index, or NONE when a table is full."""
    free = NONE
    for i in range(vm.n_slots):
        if not state.slot(vm, i).used:
            free = i
            break
    at = find_room(vm, 1, npages)
    at2 = find_room(vm, 2, pages_in_level(vm, base_gfn, npages, 2))
    at3 = find_room(vm, 3, pages_in_level(vm, base_gfn, npages, 3))
    if free < 0 or at < 0 or at2 < 0 or at3 < 0:
        return NONE
    slot = state.slot(vm, free)
    slot.id = slot_id
    slot.as_id = as_id
    slot.base_gfn = base_gfn
    slot.npages = npages
    slot.hva = hva
    slot.flags = flags
    slot.meta = at
    slot.meta2 = at2
    slot.meta3 = at3
    slot.used = 1
    for i in range(npages):
        meta = state.meta(vm, at + i)
        meta.rmap = 0
        meta.write_track = 0
        meta.dirty = 0
    for lv in range(2, 4):
        lpages = pages_in_level(vm, base_gfn, npages, lv)
        unit = geometry.pages_per_hpage(vm, lv)
        # a large page whose gfn and hva differ in alignment cannot be mapped large at all
        skewed = (hva ^ base_gfn) & (unit - 1)
        for i in range(lpages):
            large = state.meta2(vm, at2 + i) if lv == 2 else state.meta3(vm, at3 + i)
            large.rmap = 0
            large.disallow_lpage = 1 if skewed else 0
            if i == 0 and base_gfn & (unit - 1):
                large.disallow_lpage = 1
            if i == lpages - 1 and (base_gfn + npages) & (unit - 1):
                large.disallow_lpage = 1
    return free
