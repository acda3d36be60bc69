# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 000 as posted: a usable root is not asked for its shadow page.

id:      S000.posted
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -

The draft takes the check for a missing shadow page out of is_root_usable, because a special root is dropped before anything
is compared. Everything else in it is what was merged. No switch ever meets a root without a shadow page.

Fix: none needed. (The check came back with dummy roots, which are dropped in the same place.)
"""


@replaces("mmu.roots.is_root_usable")
def is_root_usable(vm, hpa, root_pgd, pgd, role):
    """is_root_usable: same pgd (PCID bits included) unless direct, same role."""
    if hpa == INVALID_PAGE:
        return False
    if not role & roles.DIRECT and pgd != root_pgd:
        return False
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 42)
        return False
    return role == state.page(vm, i).role
