# SPDX-License-Identifier: GPL-2.0-or-later
"""A special root is put into the cache.

id:      S000.g
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   -
length:  1
base:    s000_i_special_dereferenced.py

What the reviewer wants said in a comment: the current root must go before the switch, so that it is not shoved into the
cache. A special root is one bare page per vCPU; once its address is in the cache and the page is filled anew, the entry means
other tables than it did. This mutant keeps it, with an is_root_usable that knows about missing shadow pages.

Fix: as posted, the special root is freed first.
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
        return False
    return role == state.page(vm, i).role
