# SPDX-License-Identifier: GPL-2.0-or-later
"""Prefetch and sync take entries whose A bit is clear."""


@replaces("mmu.faults.prefetch_invalid_gpte")
def prefetch_invalid_gpte(vm, ctx, sptep, gpte):
    if not gpte & PT_PRESENT or contexts.is_rsvd_bits_set(ctx, gpte, 1):
        rmap.drop_spte(vm, sptep)
        return True
    return False
