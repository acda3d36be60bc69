# SPDX-License-Identifier: GPL-2.0-or-later
"""Switching the dirty log on write-protects 4K sptes only."""


@replaces("mmu.dirty.write_protect_slot")
def write_protect_slot(vm, i, min_level):
    for k in range(state.slot(vm, i).npages):
        rmap.write_protect(vm, state.meta(vm, state.slot(vm, i).meta + k).rmap, False)
