# SPDX-License-Identifier: GPL-2.0-or-later
"""A special root is not freed first, and the check for a missing shadow page is gone.

id:      S000.i
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   -
length:  1
base:    s000_posted.py

Seed 000 takes the check for a shadow page out of is_root_usable; that is right only because fast_pgd_switch has dropped a
special root before. This mutant leaves the drop out: the first MOV CR3 of a PAE guest reads the role of a page that does not
exist.

Fix: as posted, the special root is freed first. (The check came back later, with a warning.)
"""


@replaces("mmu.roots.fast_pgd_switch")
def fast_pgd_switch(vm, ctx, new_pgd, new_role):
    """fast_pgd_switch: a special or dummy current root is dropped first, so that it is never cached."""
    if ctx.root_hpa != INVALID_PAGE:
        return cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role)
    return cached_root_find_without_current(vm, ctx, new_pgd, new_role)
