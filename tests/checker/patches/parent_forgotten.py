# SPDX-License-Identifier: GPL-2.0-or-later
"""A link to a table that has a parent already is not entered in its parent_ptes."""


@replaces("mmu.faults.add_parent_pte")
def add_parent_pte(vm, sp, sptep):
    if sp.parent_ptes == 0:
        sp.parent_ptes = pte_list.add(vm, sp.parent_ptes, sptep)
