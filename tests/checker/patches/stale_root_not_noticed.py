# SPDX-License-Identifier: GPL-2.0-or-later
"""The page fault handler does not ask whether its root has become obsolete."""


@replaces("mmu.faults.is_stale")
def is_stale(vm, vcpu, f):
    return f.slot >= 0 and invalidate_retry(vm, f.mmu_seq, f.gfn)
