# SPDX-License-Identifier: GPL-2.0-or-later
"""The page fault handler does not ask whether the host has changed the page meanwhile."""


@replaces("mmu.faults.invalidate_retry")
def invalidate_retry(vm, seq, gfn):
    return False
