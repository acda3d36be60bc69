# SPDX-License-Identifier: GPL-2.0-or-later
"""An emulated write to a 4-byte page directory is looked for in the first quadrant only."""


@replaces("mmu.writes.written_spte")
def written_spte(vm, sp, gpa):
    offset = geometry.page_offset(vm, gpa)
    if sp.role & roles.HAS_4_BYTE_GPTE:
        offset <<= 1
        if roles.level(sp.role) == 2:
            offset = (offset & ~7) << 1
        if roles.quadrant(sp.role):
            return -1
        offset = geometry.page_offset(vm, offset)
    return geometry.first_sptep(vm, sp.id) + (offset >> 3)
