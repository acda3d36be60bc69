# SPDX-License-Identifier: GPL-2.0-or-later
"""The TDP MMU's iterator: every entry of a tree that covers a range of gfns, parents before children (tdp_iter.c).

    start --> level 4, entry of the first gfn
    next  --> down   if the entry points to a table (read again: the loop's body may have removed it)
              side   to the next entry of the same table
              up     at the end of a table, then side
          again  from the root, to the same gfn, if mmu_lock was given away: tables may have gone meanwhile

One record of the state holds the iterator; loops over it do not nest.
"""

from .. import state
from ..state import core
from . import geometry, roles, sptes


@core
def refresh(vm, it):
    """tdp_iter_refresh_sptep."""
    it.sptep = geometry.frame_sptep(vm, it.path[it.level - 1]) + geometry.index(vm, it.gfn << vm.page_shift, it.level)
    it.old_spte = geometry.read_spte(vm, it.sptep)


@core
def start(vm, it, root, min_level, first, end):
    """tdp_iter_start: entries of at least `min_level` for the gfns first .. end - 1 under the root page `root`."""
    sp = state.page(vm, root)
    it.next_last_level_gfn = first
    it.end = end
    it.root_level = roles.level(sp.role)
    it.min_level = min_level
    it.as_id = roles.as_id(sp.role)
    it.path[it.root_level - 1] = geometry.page_frame(vm, root)
    restart(vm, it)


@core
def restart(vm, it):
    """tdp_iter_restart."""
    it.yielded = 0
    it.yielded_gfn = it.next_last_level_gfn
    it.level = it.root_level
    it.gfn = geometry.round_gfn(vm, it.next_last_level_gfn, it.level)
    it.valid = 1
    refresh(vm, it)


@core
def cond_resched(vm, it):
    """tdp_mmu_iter_cond_resched: give mmu_lock away if somebody waits for it, but not twice at one place.  True: the loop's body
    has not looked at this entry; `advance` leads to it again (3a0f64de479c)."""
    if not state.rules(vm).tdp_yields or it.next_last_level_gfn == it.yielded_gfn:
        return False
    it.yielded = 1
    return True


@core
def okay(it):
    """The condition of for_each_tdp_pte_min_level."""
    return it.valid != 0 and it.gfn < it.end


@core
def step_down(vm, it):
    """try_step_down."""
    if it.level == it.min_level:
        return False
    it.old_spte = geometry.read_spte(vm, it.sptep)
    if not sptes.is_present(it.old_spte) or sptes.is_last(it.old_spte, it.level):
        return False
    it.level -= 1
    it.path[it.level - 1] = geometry.entry_frame(it.old_spte)
    it.gfn = geometry.round_gfn(vm, it.next_last_level_gfn, it.level)
    refresh(vm, it)
    return True


@core
def step_side(vm, it):
    """try_step_side."""
    if geometry.sptep_index(vm, it.sptep) == geometry.entries(vm) - 1:
        return False
    it.gfn += geometry.pages_per_hpage(vm, it.level)
    it.next_last_level_gfn = it.gfn
    it.sptep += 1
    it.old_spte = geometry.read_spte(vm, it.sptep)
    return True


@core
def step_up(vm, it):
    """try_step_up."""
    if it.level == it.root_level:
        return False
    it.level += 1
    it.gfn = geometry.round_gfn(vm, it.gfn, it.level)
    refresh(vm, it)
    return True


@core
def advance(vm, it):
    """tdp_iter_next."""
    if it.yielded:
        restart(vm, it)
        return
    if step_down(vm, it):
        return
    while True:
        if step_side(vm, it):
            return
        if not step_up(vm, it):
            it.valid = 0
            return
