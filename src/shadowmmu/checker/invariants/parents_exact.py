# SPDX-License-Identifier: GPL-2.0-or-later
"""An spte points to a shadow page <=> its place stands once in that page's parent_ptes.

Dossier 2.3, row "parent_ptes".  A zap clears exactly the entries named there; one that is missing keeps a pointer to a
freed table.  Entries of pae_root are references to roots, not parents.
"""

from collections import Counter

from ... import state
from ...state import core
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    named = {page.id: Counter(p.places(page.record.parent_ptes)[0]) for page in p.pages.values()}
    for link in p.links:
        if link.parent.tdp:
            continue    # one parent, see tdp_trees
        if link.child is None:
            out.append(f"entry {link.index} of {link.parent} points to no shadow page in use")
        elif link.child.tdp or named[link.child.id].pop(link.sptep, 0) != 1:
            out.append(f"entry {link.index} of {link.parent} is not (once) in parent_ptes of {link.child}")
    for i, rest in named.items():
        for place in rest:
            out.append(f"parent_ptes of {p.pages[i]} names the spte at {place:#x}, which does not point to it")
    return out


@core
def link_holds(vm, sp, i, child):
    """Entry i of a page points to page `child` (-1: to none in use)."""
    return child >= 0 and raw.times(vm, state.page(vm, child).parent_ptes, raw.place(vm, sp, i)) == 1


@core
def holds(vm):
    """The same, compiled: every link is once in the right list, and there are no more places than links."""
    balance = 0
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not raw.is_shadow_page(sp):
            continue
        balance -= raw.length(vm, sp.parent_ptes)
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or raw.is_leaf(sp, spte):
                continue
            if not link_holds(vm, sp, i, raw.child(vm, spte)):
                return False
            balance += 1
    return balance == 0
