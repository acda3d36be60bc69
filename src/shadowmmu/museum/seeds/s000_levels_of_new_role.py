# SPDX-License-Identifier: GPL-2.0-or-later
"""The condition from before seed 000, asked of the new role.

id:      S000.levels
year:    2022
commits: 5499ea73e7db, 3cffc89d9d07
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   nested guest
length:  2

Before the seed the levels of the old mode decided whether the current root may go into the cache. The same series makes the MMU
ready for the new mode before the new table is loaded; that is why, says the changelog, the old levels must not be asked any more.
This mutant has the new order with the old question. L2 switches paging off and leaves for its 64-bit L1: the levels are those of
a 64-bit table already, the root still in place is the special one, and it goes into the cache.

Fix: as posted, what decides is whether the root has a shadow page.
"""


@replaces("mmu.roots.fast_pgd_switch")
def fast_pgd_switch(vm, ctx, new_pgd, new_role):
    """The condition of before 5499ea73e7db, in today's order."""
    if roles.level(ctx.root_role) >= 4 and roles.level(ctx.cpu_role) >= 4 and ctx.root_hpa != INVALID_PAGE:
        return cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role)
    free_roots(vm, ctx, CURRENT)
    return False
