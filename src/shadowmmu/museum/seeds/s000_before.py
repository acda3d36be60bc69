# SPDX-License-Identifier: GPL-2.0-or-later
"""Before seed 000: the cache is for 64-bit guests, judged by the level of the old root.

id:      S000.before
year:    2020
commits: 5499ea73e7db
cve:     -
rules:   linux-6.1
change:  -
breaks:  nothing
needs:   -
length:  -

The rule set `2022-levels`: a switch looks into the cache only if the old mode had 64-bit tables; otherwise the current root
is freed and nothing is looked up. Correct, and slow for a 64-bit hypervisor with a 32-bit guest: coming back from the guest
it never finds its root.

Fix: none needed; seed 000 makes it faster.
"""


@replaces("mmu.roots.fast_pgd_switch")
def fast_pgd_switch(vm, ctx, new_pgd, new_role):
    """Before 5499ea73e7db: no cache unless the tables are 64-bit ones.  The MMU was still in its old mode at this point; here its
    role is the new one already, and what tells is the old root, if there is one."""
    level = min(roles.level(ctx.root_role), roles.level(ctx.cpu_role))
    if ctx.root_hpa != INVALID_PAGE:
        i = root_to_sp(vm, ctx.root_hpa)
        level = roles.level(state.page(vm, i).role) if i >= 0 else 0
    if level >= 4:
        return cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role)
    free_roots(vm, ctx, CURRENT)
    return False
