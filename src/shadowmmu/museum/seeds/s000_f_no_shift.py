# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache does not move up after a hit; the invalid root stays in the middle.

id:      S000.f3
year:    2022
commits: 5499ea73e7db
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -

A mutant of seed 000: after the swap the invalid root stays where the hit was. Nothing is lost and nothing doubled, a hole is
only a hole: the next eviction falls on a root that a cache in order would have kept. No search finds anything, and the
enumeration of the cache's states (docs/seeds.md) shows only another order.

Fix: none needed for correctness; the move keeps the order of use.
"""


@replaces("mmu.roots.cached_root_find_without_current")
def cached_root_find_without_current(vm, ctx, new_pgd, new_role):
    """The hit changes places with the invalid root."""
    for i in range(NUM_PREV_ROOTS):
        if is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            swap_root(ctx, i)
            return True
    return False
