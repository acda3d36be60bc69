# SPDX-License-Identifier: GPL-2.0-or-later
"""An entry is empty, present, or an MMIO mark of a gfn without memory; nothing else.

Dossier 2.3, row "MMIO sptes": not MMU-present, so never in a rmap.  While its generation is the current one no memslot
may hold its gfn, or the guest would get a device where it has RAM (D11, 56f17dd3fbc4).
"""

from ... import state
from ...state import core
from . import raw
from .picture import MMIO_MARK, MMU_PRESENT, look


def check(vm):
    p, out = look(vm), []
    empty = p.rules.nonpresent_spte
    for page in p.everything():
        for i, spte in enumerate(page.table):
            if spte != empty and not spte & MMU_PRESENT and spte & MMIO_MARK != MMIO_MARK:
                out.append(f"entry {i} of {page} is neither empty nor present nor MMIO: {spte & (1 << 64) - 1:#x}")
    for page, i, spte in p.mmio:
        gfn = spte >> 12 & (1 << 39) - 1
        generation = spte >> 3 & 0xFF | (spte >> 52 & 0x7FF) << 8
        if generation == p.view.mmio_generation[page.as_id] & (1 << 19) - 1 and p.slot_of(page.as_id, gfn):
            out.append(f"entry {i} of {page} marks gfn {gfn:#x} as MMIO, but a memslot holds it")
    return out


@core
def entry_holds(vm, sp, spte):
    """One entry that is neither empty nor present."""
    generation = vm.mmio_generation[raw.space(sp)] & (1 << 19) - 1
    if spte & MMIO_MARK != MMIO_MARK:
        return False
    return (spte >> 3 & 0xFF | (spte >> 52 & 0x7FF) << 8) != generation \
        or raw.slot_of(vm, raw.space(sp), spte >> 12 & (1 << 39) - 1) < 0


@core
def holds(vm):
    """The same, compiled."""
    empty = state.rules(vm).nonpresent_spte
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use:
            continue
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if spte != empty and not raw.present(spte) and not entry_holds(vm, sp, spte):
                return False
    return True
