# SPDX-License-Identifier: GPL-2.0-or-later
"""Off by one in the root rotation: closing the gap stops before the last entry, which then stands twice."""


@replaces("mmu.roots.cached_root_find_without_current")
def cached_root_find_without_current(vm, ctx, new_pgd, new_role):
    for i in range(NUM_PREV_ROOTS):
        if is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            swap_root(ctx, i)
            for k in range(i, NUM_PREV_ROOTS - 1):
                ctx.prev_hpa[k] = ctx.prev_hpa[k + 1]
                ctx.prev_pgd[k] = ctx.prev_pgd[k + 1]
            ctx.prev_hpa[NUM_PREV_ROOTS - 2] = INVALID_PAGE
            return True
    return False
