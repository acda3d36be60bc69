# SPDX-License-Identifier: GPL-2.0-or-later
"""An spte points to a shadow page <=> its place stands once in that page's parent_ptes.

Dossier 2.3, row "parent_ptes".  A zap clears exactly the entries named there; one that is missing keeps a pointer to a
freed table.  Entries of pae_root are references to roots, not parents.
"""

from collections import Counter

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
