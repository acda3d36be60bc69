# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of an older generation is as good as a new one."""


@replaces("mmu.shadow_pages.is_obsolete")
def is_obsolete(vm, sp):
    return sp.role & roles.INVALID != 0
