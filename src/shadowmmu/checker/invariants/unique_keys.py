# SPDX-License-Identifier: GPL-2.0-or-later
"""At most one valid shadow page per (gfn, role).

Dossier 2.3, row "hash table".  Two would mean that writes, syncs and zaps reach one of them only; valid means neither
invalid nor of an older generation.
"""

from ... import state
from ...state import core
from . import raw
from .picture import look


def check(vm):
    seen, out = {}, []
    for page in look(vm).valid:
        key = page.gfn, page.role
        if key in seen:
            out.append(f"{page} has the same gfn and role as page {seen[key]}")
        seen.setdefault(key, page.id)
    return out


@core
def page_holds(vm, sp):
    """One valid page: none behind it on the active list has its key."""
    k = sp.next
    for _ in range(vm.n_pages):
        if k < 0:
            break
        other = state.page(vm, k)
        if other.gfn == sp.gfn and other.role == sp.role and raw.valid(vm, other):
            return False
        k = other.next
    return True


@core
def holds(vm):
    """The same, compiled; every valid page is on the active list (`lists`)."""
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if raw.is_shadow_page(sp) and raw.valid(vm, sp) and not page_holds(vm, sp):
            return False
    return True
