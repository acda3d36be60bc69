# SPDX-License-Identifier: GPL-2.0-or-later
"""An entry is empty, present, or an MMIO mark of a gfn without memory; nothing else.

Dossier 2.3, row "MMIO sptes": not MMU-present, so never in a rmap.  While its generation is the current one no memslot
may hold its gfn, or the guest would get a device where it has RAM (D11, 56f17dd3fbc4).
"""

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
