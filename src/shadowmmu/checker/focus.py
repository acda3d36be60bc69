# SPDX-License-Identifier: GPL-2.0-or-later
"""Which linear pages of a machine an operation is about, as one bit per page (`Machine.pages`).

    v0 load 0xa0                           the page 0xa0
    v0 store 0x28 = pte(gfn=9, P|W)        0x20, where the guest maps U, and what entry 1 of U maps: 0xa0, 0x1a0
    host write 0xa8 = ...                  the same entry
    host unmap hva=10 pages=1              0xa0, which maps gfn 10
    v0 mov cr4 = PAE                       no page in particular: EVERY

Taken from the tables that the guest starts with; a walk changes them, but not much.
"""

from ..x86.bits import CR0_PG, CR4_LA57, EFER_LMA, FRAME_MASK
from . import ops
from .places import PAGE, PDPTES_A, ROOT_A

EVERY = -1


def root(m):
    """gfn where the tables of these pages begin: the guest's, or L1's nested ones."""
    return m.cr3 >> 12 if not m.nested else PDPTES_A if m.is_nested_pae else ROOT_A


def levels(m):
    """Their levels."""
    if m.nested == "ept":
        return m.nested_levels
    return 2 if m.entry_bytes == 4 else 3 if not m.efer & EFER_LMA else 5 if m.cr4 & CR4_LA57 else 4


def walk(m, tables, page):
    """([(gfn, byte) of each entry on the way], gfn that the page maps or None)."""
    if not m.cr0 & CR0_PG:
        return [], page
    gfn, path = root(m), []
    for level in range(levels(m), 0, -1):
        index = page >> m.index_bits * (level - 1) & (1 << m.index_bits) - 1
        path.append((gfn, index * m.entry_bytes))
        entry = dict(enumerate(tables.get(gfn, ()))).get(index, 0)
        if not entry & 1:
            return path, None
        gfn = (entry & FRAME_MASK) >> 12
        if entry & 0x80 and level > 1:
            return path, gfn + (page & (1 << m.index_bits * (level - 1)) - 1)
    return path, gfn


class Focus:
    """about(row) for one machine."""

    def __init__(self, machine):
        self.m = machine
        tables = machine.tables()
        self.walks = [walk(machine, tables, page) for page in machine.pages]

    def _where(self, test):
        """Bits of the pages for which test(path, leaf) holds."""
        return sum(1 << i for i, (path, leaf) in enumerate(self.walks) if test(path, leaf))

    def _page(self, gva):
        page = gva // PAGE
        return 1 << self.m.pages.index(page) if page in self.m.pages else 0

    def _bytes(self, gfn, first, size):
        """Pages whose walk reads one of these bytes."""
        return self._where(lambda path, leaf: any(g == gfn and at < first + size and first < at + self.m.entry_bytes
                                                  for g, at in path))

    def _gfns(self, first, count):
        """Pages that map one of these gfns."""
        return self._where(lambda path, leaf: leaf is not None and first <= leaf < first + count)

    def about(self, row):
        """Bits of the pages; EVERY where there is none in particular."""
        code, a, b, c = row[0], row[2], row[3], row[4]
        found = 0
        if code in (ops.LOAD, ops.FETCH, ops.INVLPG):
            found = self._page(a)
        elif code == ops.INVPCID and a == 0:
            found = self._page(c)
        elif code == ops.STORE:
            found = self._page(a)
            for i in range(len(self.walks)):
                if found >> i & 1 and self.walks[i][1] is not None:
                    found |= self._bytes(self.walks[i][1], a % PAGE, c)
            if self.m.nested:
                # L1 has every page at its own place
                found |= self._bytes(a // PAGE, a % PAGE, c)
        elif code == ops.HOST_WRITE:
            found = self._bytes(a // PAGE, a % PAGE, c)
        elif code in (ops.UNMAP, ops.AGE):
            found = self._gfns(a, b)
        elif code == ops.MIGRATE:
            found = self._gfns(a, 1)
        elif code == ops.DIRTY_CLEAR:
            found = self._gfns(b, c)
        return found or EVERY
