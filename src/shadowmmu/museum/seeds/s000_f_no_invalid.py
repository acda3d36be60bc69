# SPDX-License-Identifier: GPL-2.0-or-later
"""The last place of the cache is not invalidated after a hit without a current root.

id:      S000.f2
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   -
length:  4

A mutant of seed 000: the line that the reviewer asked about is left out. After the move the last root stands in the cache
twice, with one reference; it is put twice.

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
            return True
    return False
