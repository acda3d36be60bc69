# SPDX-License-Identifier: GPL-2.0-or-later
"""The state as the compiled half of the invariants reads it: bytes and bit positions only.

As in `picture`, nothing here calls a function of `mmu/`, so a mistake there cannot hide itself.
"""

from ... import state
from ...mmu import roles
from ...state import core
from ...x86.bits import FRAME_MASK, PT_PAGE_SIZE
from .picture import MMU_PRESENT


@core
def present(spte):
    return spte & MMU_PRESENT != 0


@core
def level(sp):
    return sp.role & roles.LEVEL


@core
def is_leaf(sp, spte):
    """A present entry maps memory (else it points to a table)."""
    return level(sp) == 1 or spte & PT_PAGE_SIZE != 0


@core
def has_gptes(sp):
    return not sp.role & (roles.DIRECT | roles.PASSTHROUGH)


@core
def is_shadow_page(sp):
    """In use, and none of the TDP MMU's own, which have neither hash nor rmap nor parents (`tdp_trees`)."""
    return sp.in_use != 0 and not sp.tdp_mmu_page


@core
def valid(vm, sp):
    """Neither invalid nor of an older generation."""
    return not sp.role & roles.INVALID and sp.mmu_valid_gen == vm.mmu_valid_gen


@core
def space(sp):
    """Address space of a page."""
    return 1 if sp.role & roles.SMM else 0


@core
def place(vm, sp, i):
    """Place of entry i of a page."""
    return ((vm.special_frames + sp.id) << vm.level_bits) + i


@core
def entry(vm, sp, i):
    return state.words(vm, vm.spt)[place(vm, sp, i)]


@core
def span(vm, lv):
    """4K pages that an entry of this level covers."""
    return 1 << (vm.level_bits * (lv - 1))


@core
def page_of(vm, frame):
    """Index of the shadow page in use whose table is this frame; -1 for others."""
    i = frame - vm.shadow_pfn - vm.special_frames
    if i < 0 or i >= vm.n_pages or not state.page(vm, i).in_use:
        return -1
    return i


@core
def child(vm, spte):
    """Index of the shadow page that an entry points to, or -1."""
    return page_of(vm, (spte & FRAME_MASK) >> 12)


@core
def gfn(vm, sp, i):
    """The gfn that entry i stands for: computed for direct pages, recorded for indirect ones."""
    if sp.role & roles.PASSTHROUGH:
        return sp.gfn
    if has_gptes(sp) and level(sp) <= 3:
        return (state.words32(vm, vm.translation)[place(vm, sp, i)] + 0) >> 4
    return sp.gfn + i * span(vm, level(sp))


@core
def slot_of(vm, as_id, number):
    """Index of the memslot of a gfn, or -1."""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used and slot.as_id == as_id and slot.base_gfn <= number < slot.base_gfn + slot.npages:
            return i
    return -1


@core
def large_index(vm, slot, number, lv):
    """Place of a gfn in the slot's table of level `lv`."""
    shift = vm.level_bits * (lv - 1)
    return (number >> shift) - (slot.base_gfn >> shift)


@core
def large_count(vm, slot, lv):
    """Entries of the slot's table of level `lv`."""
    return large_index(vm, slot, slot.base_gfn + slot.npages - 1, lv) + 1


@core
def rmap(vm, slot, lv, k):
    """Head of the k-th list of level `lv`."""
    if lv == 1:
        return state.meta(vm, slot.meta + k).rmap
    if lv == 2:
        return state.meta2(vm, slot.meta2 + k).rmap
    return state.meta3(vm, slot.meta3 + k).rmap


@core
def times(vm, head, sptep):
    """How often a place stands in a list; -1 for a list that does not end."""
    if head == 0:
        return 0
    if not head & 1:
        return 1 if (head >> 1) - 1 == sptep else 0
    n = 0
    d = (head >> 1) - 1
    for _ in range(vm.n_descs):
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            if desc.sptes[k] == sptep:
                n += 1
        d = desc.more
        if d < 0:
            return n
    return -1


@core
def length(vm, head):
    """Places in a list."""
    if head == 0:
        return 0
    if not head & 1:
        return 1
    n = 0
    d = (head >> 1) - 1
    for _ in range(vm.n_descs):
        n += state.desc(vm, d).spte_count
        d = state.desc(vm, d).more
        if d < 0:
            return n
    return -1
