# SPDX-License-Identifier: GPL-2.0-or-later
"""The slot of the hit is invalidated after the cache has moved up.

id:      S000.f1
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   -
length:  3

A mutant of seed 000 that does what the reviewer's "This looks wrong" would have led to: after the roots behind the hit have
moved up by one, INVALID_PAGE is written to the place where the hit was, not to the end. The root that moved there is lost
(its count never comes down), and the last one stands in the cache twice, so that it is put twice.

Fix: as posted and merged, the last place is invalidated.
"""


@replaces("mmu.roots.cached_root_find_without_current")
def cached_root_find_without_current(vm, ctx, new_pgd, new_role):
    """cached_root_find_without_current: on entry the current root is invalid; a hit closes its gap in the cache."""
    for i in range(NUM_PREV_ROOTS):
        if is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            swap_root(ctx, i)
            for k in range(i, NUM_PREV_ROOTS - 1):
                ctx.prev_hpa[k] = ctx.prev_hpa[k + 1]
                ctx.prev_pgd[k] = ctx.prev_pgd[k + 1]
            ctx.prev_hpa[i] = INVALID_PAGE
            return True
    return False
