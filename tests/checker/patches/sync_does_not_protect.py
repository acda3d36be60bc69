# SPDX-License-Identifier: GPL-2.0-or-later
"""A synced page table is not write-protected again."""


@replaces("mmu.rmap.vcpu_write_protect_gfn")
def vcpu_write_protect_gfn(vm, vcpu, gfn):
    return False
