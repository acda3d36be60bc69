# SPDX-License-Identifier: GPL-2.0-or-later
"""mark_unsync sets the bit of the neighbouring entry."""


@replaces("mmu.unsync.mark_unsync")
def mark_unsync(vm, sptep):
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    i = geometry.sptep_index(vm, sptep) ^ 1
    if test_bit(sp, i):
        return
    sp.unsync_child_bitmap[i >> 5] |= 1 << (i & 31)
    sp.unsync_children += 1
    if sp.unsync_children > 1:
        return
    mark_parents_unsync(vm, sp)
