# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeing a root without a shadow page dereferences NULL.

id:      D7
year:    2022
commits: 9191b8f0745e
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-references
needs:   -
length:  1

mmu_free_root_page took for granted that every root has a shadow page. No code puts a special root there; should a bug do so,
the host goes down instead of printing a warning. The exhibit is such a bug (a special root is cached, S000.g) without the
check.

Fix: a warning, and nothing is freed.
"""


@replaces("mmu.roots.put_root")
def put_root(vm, hpa):
    """mmu_free_root_page: one reference less; a valid page stays in the cache, an invalid one is zapped."""
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 42)
        return
    sp = state.page(vm, i)
    if sp.tdp_mmu_page:
        tdp_mmu.put_root(vm, sp)
        return
    sp.root_count -= 1
    if sp.root_count < 0:
        warn.warn(vm, 24)
    if sp.root_count == 0 and sp.role & roles.INVALID:
        zap.prepare_zap_page(vm, sp)


@replaces("mmu.roots.fast_pgd_switch")
def fast_pgd_switch(vm, ctx, new_pgd, new_role):
    """fast_pgd_switch: a special or dummy current root is dropped first, so that it is never cached."""
    if ctx.root_hpa != INVALID_PAGE:
        return cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role)
    return cached_root_find_without_current(vm, ctx, new_pgd, new_role)


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
