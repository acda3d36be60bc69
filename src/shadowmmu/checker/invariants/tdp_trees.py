# SPDX-License-Identifier: GPL-2.0-or-later
"""The TDP MMU's pages form trees below the roots on tdp_mmu_roots, one tree per role.

    tdp_mmu_roots      exactly the tables without a parent entry; at most one valid root per role
    table              linked once, by the entry it remembers (ptep); role and gfn follow from the parent's; direct
    invalid root       empty: whoever made it invalid zapped it before anybody else could look
    vCPU               current and previous roots are on the list

Dossier 2.3, row "TDP MMU"; Linux 6.12, tdp_mmu.c.  A table that is linked twice is freed twice, one that is not linked is
never freed, and an entry that nobody finds from a root survives the MMU notifier.  Frozen entries lie in freed tables only
(`mmio_sptes`).
"""

from collections import Counter

from ... import state
from ...mmu import roles
from ...state import core, interpreted, layout
from . import raw
from .picture import look


def _roots(p, out):
    listed, i = [], p.view.list_head[layout.TDP_ROOT_LIST]
    while i >= 0 and len(listed) <= p.view.n_pages:
        listed.append(i)
        i = interpreted.page(p.view, i).next
    right = {i for i, page in p.trees.items() if page.record.ptep < 0}
    if set(listed) != right or len(set(listed)) != len(listed):
        out.append(f"tdp_mmu_roots has pages {listed}, tables without a parent are {sorted(right)}")
    seen = Counter(p.trees[i].role for i in listed if i in p.trees and not p.trees[i].invalid)
    out += [f"{n} valid roots have role {role:#x}" for role, n in seen.items() if n > 1]
    return right


def check(vm):
    p, out = look(vm), []
    roots = _roots(p, out)
    linked = Counter()
    for link in p.links:
        parent, child = link.parent, link.child
        if not parent.tdp:
            continue
        where = f"entry {link.index} of {parent}"
        if child is None or not child.tdp:
            out.append(f"{where} points to no table of the TDP MMU")
            continue
        linked[child.id] += 1
        if child.record.ptep != link.sptep:
            out.append(f"{where} leads to {child}, which remembers the entry at {child.record.ptep:#x}")
        if child.role != (parent.role & ~roles.INVALID) - 1 or not child.direct:
            out.append(f"{where} leads to {child}: roles do not fit")
    for i in set(p.trees) - roots:
        if linked[i] != 1:
            out.append(f"{p.trees[i]} is linked {linked[i]} times")
    for i in roots:
        page = p.trees[i]
        if page.gfn or linked[i]:
            out.append(f"{page} is a root with gfn {page.gfn:#x}, linked {linked[i]} times")
        if page.invalid and any(spte != p.rules.nonpresent_spte for spte in page.table):
            out.append(f"{page} is invalid and not empty")
    return out


@core
def link_holds(vm, sp, i, child):
    """Entry i of a page of the TDP MMU points to page `child` (-1: to none in use)."""
    if child < 0 or sp.role & roles.INVALID:
        return False
    c = state.page(vm, child)
    return c.tdp_mmu_page != 0 and c.ptep == raw.place(vm, sp, i) and c.role == sp.role - 1 and c.role & roles.DIRECT != 0


@core
def root_holds(vm, sp):
    """One root: the only valid one of its role, empty if invalid."""
    if sp.gfn or sp.list != layout.TDP_ROOT_LIST:
        return False
    if sp.role & roles.INVALID:
        empty = state.rules(vm).nonpresent_spte
        for i in range(1 << vm.level_bits):
            if raw.entry(vm, sp, i) != empty:
                return False
        return True
    k = sp.next
    for _ in range(vm.n_pages):
        if k < 0:
            return True
        if state.page(vm, k).role == sp.role:
            return False
        k = state.page(vm, k).next
    return False


@core
def roots_hold(vm):
    """tdp_mmu_roots has all tables without a parent entry and nothing else."""
    count = 0
    i = vm.list_head[layout.TDP_ROOT_LIST]
    while i >= 0:
        sp = state.page(vm, i)
        if not sp.in_use or not sp.tdp_mmu_page or sp.ptep >= 0 or not root_holds(vm, sp):
            return False
        i = sp.next
        count += 1
        if count > vm.n_pages:
            return False
    for k in range(vm.n_pages):
        sp = state.page(vm, k)
        if sp.in_use and sp.tdp_mmu_page and sp.ptep < 0:
            count -= 1
    return count == 0


@core
def holds(vm):
    """The same, compiled: roots, and every link to the table that remembers it, as many links as such tables."""
    if not roots_hold(vm):
        return False
    balance = 0
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use or not sp.tdp_mmu_page:
            continue
        balance -= sp.ptep >= 0
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or raw.is_leaf(sp, spte):
                continue
            if not link_holds(vm, sp, i, raw.child(vm, spte)):
                return False
            balance += 1
    return balance == 0
