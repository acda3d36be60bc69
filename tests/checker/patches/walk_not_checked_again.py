# SPDX-License-Identifier: GPL-2.0-or-later
"""Under mmu_lock the guest's entries are not compared with what the walk saw."""


@replaces("mmu.walk.gpte_changed")
def gpte_changed(vm, vcpu, ctx, w, level):
    if level == 1:
        size = gpte_size(ctx)
        base = w.pte_gpa[0] & -(vm.prefetch_num * size)
        frame = host.gpa_frame(vm, vcpu, base, True)
        if frame < 0:
            return True
        for i in range(vm.prefetch_num):
            w.prefetch_ptes[i] = host.read_entry(vm, frame, geometry.page_offset(vm, base) + i * size, size)
    return False
