# SPDX-License-Identifier: GPL-2.0-or-later
"""All invariants in one pass over the pages: what a search asks in every new state.

The files ask about a leaf, a link, a page or the whole machine; here every page and entry is visited once.  That the answer is
the same as of all files one by one is tested with every damage that they are tested with.
"""

from ... import state
from ...mmu import roles
from ...state import core
from . import (
    child_roles,
    counters_exact,
    direct_pages,
    leaf_sptes,
    lists,
    mmio_sptes,
    no_leaks,
    parents_exact,
    raw,
    rmap_exact,
    root_cache,
    root_references,
    tdp_trees,
    tracking_exact,
    unique_keys,
    unsync_bits,
    write_protection,
)


@core
def link_holds(vm, sp, i, child):
    """Entry i of a page points to page `child`."""
    if sp.tdp_mmu_page:
        return tdp_trees.link_holds(vm, sp, i, child) and direct_pages.link_holds(vm, sp, i, state.page(vm, child))
    if not parents_exact.link_holds(vm, sp, i, child):
        return False
    c = state.page(vm, child)
    if not child_roles.link_holds(sp, i, c) or not unsync_bits.link_holds(sp, i, c):
        return False
    return not sp.role & roles.DIRECT or direct_pages.link_holds(vm, sp, i, c)


@core
def leaf_holds(vm, sp, i, spte):
    """Entry i of a page is a leaf."""
    gfn = raw.gfn(vm, sp, i)
    s = raw.slot_of(vm, raw.space(sp), gfn)
    return (sp.tdp_mmu_page or rmap_exact.leaf_holds(vm, sp, i, gfn, s)) and leaf_sptes.leaf_holds(vm, sp, spte, gfn, s) \
        and write_protection.leaf_holds(vm, sp, spte, gfn)


@core
def page_holds(vm, sp):
    """One page in use, without its entries."""
    if not sp.tdp_mmu_page and raw.valid(vm, sp) and not unique_keys.page_holds(vm, sp) or not unsync_bits.page_holds(vm, sp):
        return False
    return not sp.role & roles.DIRECT or direct_pages.page_holds(vm, sp)


@core
def all_hold(vm):
    """Does every invariant hold?"""
    if not lists.holds(vm):
        return False
    empty = state.rules(vm).nonpresent_spte
    leaves = 0
    links = 0
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use:
            continue
        if not page_holds(vm, sp):
            return False
        # who points here: parent_ptes, or the one entry of a table of the TDP MMU
        links -= raw.length(vm, sp.parent_ptes) + (sp.tdp_mmu_page and sp.ptep >= 0)
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if spte == empty:
                continue
            if not raw.present(spte):
                if not mmio_sptes.entry_holds(vm, sp, spte):
                    return False
            elif raw.is_leaf(sp, spte):
                leaves += not sp.tdp_mmu_page
                if not leaf_holds(vm, sp, i, spte):
                    return False
            else:
                links += 1
                if not link_holds(vm, sp, i, raw.child(vm, spte)):
                    return False
    if links or leaves != rmap_exact.places(vm):
        return False
    return tdp_trees.roots_hold(vm) and tracking_exact.holds(vm) and root_references.holds(vm) and root_cache.holds(vm) \
        and counters_exact.holds(vm) and no_leaks.holds(vm)
