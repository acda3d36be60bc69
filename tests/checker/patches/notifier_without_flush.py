# SPDX-License-Identifier: GPL-2.0-or-later
"""An MMU notifier zaps and does not flush."""


@replaces("mmu.rmap.zap_gfn_range")
def zap_gfn_range(vm, i, start, end):
    for level in range(1, 4):
        unit = geometry.pages_per_hpage(vm, level)
        gfn = geometry.round_gfn(vm, start, level)
        while gfn < end:
            zap_all(vm, i, max(gfn, state.slot(vm, i).base_gfn), level)
            gfn += unit
    return False
