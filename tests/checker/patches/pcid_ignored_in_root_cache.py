# SPDX-License-Identifier: GPL-2.0-or-later
"""A cached root is found by the frame of the pgd alone: the PCID in it does not count."""


@replaces("mmu.roots.is_root_usable")
def is_root_usable(vm, hpa, root_pgd, pgd, role):
    if hpa == INVALID_PAGE:
        return False
    if not role & roles.DIRECT and pgd >> 12 != root_pgd >> 12:
        return False
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 4)
        return False
    return role == state.page(vm, i).role
