# SPDX-License-Identifier: GPL-2.0-or-later
"""A direct page's gfn arithmetic: entry i stands for gfn + i * span.

    the page's gfn is aligned to what the page covers; a table linked below a direct page is direct and starts where
    the entry points

Dossier 2.3, row "shadowed_translation", and A3: a leaf for another gfn inside a direct page is what CVE-2026-46113 was.
That each leaf maps the host frame of its computed gfn is checked in `leaf_sptes`.
"""

from ... import state
from ...mmu import roles
from ...state import core
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    for page in p.everything():
        if page.direct and not page.invalid and page.gfn % (p.span(page.level) * p.entries):
            out.append(f"{page} is direct and not aligned")
    for link in p.links:
        if link.child and link.parent.direct:
            right = link.parent.gfn + link.index * p.span(link.parent.level)
            if not link.child.direct or link.child.gfn != right:
                out.append(f"entry {link.index} of {link.parent} should lead to a direct page of gfn {right:#x}, "
                           f"leads to {link.child}")
    return out


@core
def page_holds(vm, sp):
    """One direct page."""
    return sp.role & roles.INVALID != 0 or sp.gfn & (raw.span(vm, raw.level(sp)) << vm.level_bits) - 1 == 0


@core
def link_holds(vm, sp, i, child):
    """Entry i of a direct page points to another."""
    return child.role & roles.DIRECT != 0 and child.gfn == sp.gfn + i * raw.span(vm, raw.level(sp))


@core
def holds(vm):
    """The same, compiled."""
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use or not sp.role & roles.DIRECT:
            continue
        if not page_holds(vm, sp):
            return False
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or raw.is_leaf(sp, spte):
                continue
            c = raw.child(vm, spte)
            if c >= 0 and not link_holds(vm, sp, i, state.page(vm, c)):
                return False
    return True
