# SPDX-License-Identifier: GPL-2.0-or-later
"""Every counter of present things equals the number of those things.

    pages_4k, pages_2m, pages_1g   present leaf sptes of the level
    mmu_unsync                     unsync pages
    nx_lpage_splits                pages on the NX list, each of them marked nx_huge_page_disallowed
    n_used_mmu_pages               shadow pages in use: the active list and zapped roots that are still held
    tdp_mmu_pages                  tables of the TDP MMU without the roots
    indirect_shadow_pages          valid pages that shadow guest tables

Dossier 2.3, rows "quota/reclaim" and "NX huge pages", and 2.4.  indirect_shadow_pages at 0 switches write tracking off.
"""

from ... import state
from ...mmu import counters, roles
from ...state import core, interpreted
from . import raw
from .picture import look


def check(vm):
    p = look(vm)
    view, stat = p.view, p.view.stat
    nx, i = [], view.nx_head
    while i >= 0 and len(nx) <= len(p.everything()):
        nx.append(i)
        i = interpreted.page(view, i).nx_next
    expected = [
        *((counters.VM_STATS[counters.PAGES_4K + n], stat[counters.PAGES_4K + n],
           sum(leaf.level == n + 1 for leaf in p.leaves)) for n in range(3)),
        ("mmu_unsync", stat[counters.MMU_UNSYNC], sum(page.record.unsync for page in p.pages.values())),
        ("nx_lpage_splits", stat[counters.NX_LPAGE_SPLITS], len(nx)),
        ("n_used_mmu_pages", view.n_used_mmu_pages, len(p.pages)),
        ("tdp_mmu_pages", view.tdp_mmu_pages, sum(page.record.ptep >= 0 for page in p.trees.values())),
        ("indirect_shadow_pages", view.indirect_shadow_pages,
         sum(page.has_gptes and not page.invalid for page in p.pages.values())),
    ]
    out = [f"{name} is {got}, should be {right}" for name, got, right in expected if got != right]
    listed = {page.id for page in p.everything() if page.record.nx_listed}
    if set(nx) != listed or len(set(nx)) != len(nx):
        out.append(f"the NX list has pages {nx}, marked as listed are {sorted(listed)}")
    out += [f"{p.page_in_use(i)} is on the NX list without nx_huge_page_disallowed" for i in nx
            if p.page_in_use(i) and not p.page_in_use(i).record.nx_huge_page_disallowed]
    return out


@core
def leaves_of(vm, lv):
    """Present leaves of a level."""
    n = 0
    for k in range(vm.n_pages):
        sp = state.page(vm, k)
        if sp.in_use and raw.level(sp) == lv:
            for i in range(1 << vm.level_bits):
                spte = raw.entry(vm, sp, i)
                if raw.present(spte) and raw.is_leaf(sp, spte):
                    n += 1
    return n


@core
def holds(vm):
    """The same, compiled."""
    for lv in range(1, 4):
        if vm.stat[counters.PAGES_4K + lv - 1] != leaves_of(vm, lv):
            return False
    used = 0
    below = 0
    unsync = 0
    shadowing = 0
    listed = 0
    for k in range(vm.n_pages):
        sp = state.page(vm, k)
        if not sp.in_use:
            continue
        if sp.tdp_mmu_page:
            below += sp.ptep >= 0
        else:
            used += 1
        unsync += sp.unsync
        listed += sp.nx_listed
        if sp.nx_listed and not sp.nx_huge_page_disallowed:
            return False
        if raw.has_gptes(sp) and not sp.role & roles.INVALID:
            shadowing += 1
    i = vm.nx_head
    on_list = 0
    while i >= 0 and on_list <= vm.n_pages:
        if not state.page(vm, i).nx_listed:
            return False
        on_list += 1
        i = state.page(vm, i).nx_next
    return on_list == listed and vm.stat[counters.NX_LPAGE_SPLITS] == listed and vm.stat[counters.MMU_UNSYNC] == unsync \
        and vm.n_used_mmu_pages == used and vm.tdp_mmu_pages == below and vm.indirect_shadow_pages == shadowing
