# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache does not look at the current root first.

id:      S003.before
year:    2018
commits: 71fe70130d88
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-cache
needs:   -
length:  2

The rule set `2018-victim-cache`. A root gets into the cache when another one replaces it, so the root in use is not there. A
switch to the root that is in use already finds nothing, throws the oldest root out and makes a second reference to the same
shadow page. No guest sees it: the cache fills with copies of one root, and what fails here is what today's code
promises, that no root stands in the cache twice (search, root-cache aside: nothing else in 7.6 million operations). A guest
cannot bring it about by MOV CR3 of the same value, which KVM answers before; nested entry and exit do.

Fix: seed 003 looks at the current root first.
"""


@replaces("mmu.roots.cached_root_find_and_keep_current")
def cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role):
    """cached_root_find_and_keep_current: the swaps rotate the cache; the old current root becomes the MRU.

        C   0 1 2     on entry
        0   C 1 2
        1   C 0 2
        2   C 0 1     the entry that falls out at the end is the LRU
    """
    for i in range(NUM_PREV_ROOTS):
        swap_root(ctx, i)
        if is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
            return True
    free_roots(vm, ctx, CURRENT)
    return False
