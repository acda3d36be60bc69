# SPDX-License-Identifier: GPL-2.0-or-later
"""The set of digests that a search has met: open addressing, grown between slices so that it is never more than half full.

    with slice(work, n):    make_room(n) --> step, which puts in at most n --> count += new ones

At MOST_BITS it grows no more: from then on `is_new` may answer that there is no room, and whoever asked says what was lost.
"""

import array
from contextlib import contextmanager

from ..state import JIT, core
from .work import STATES

#: Words at the start and at most (2 GiB: a hundred million states and more), as powers of two.
FIRST_BITS, MOST_BITS = (16, 28) if JIT else (10, 22)
#: Places looked at before a full table is assumed; with half of it empty so long a run does not occur.
PROBES = 1024


@core
def is_new(seen, bits, h):
    """Put a digest into the open-addressed set of 2**bits words: 1 if it was not there, 0 if it was, -1 if there is no room."""
    mask = (1 << bits) - 1
    at = h >> 8 & mask
    for _ in range(PROBES):
        if seen[at] == h:
            return 0
        if seen[at] == 0:
            seen[at] = h
            return 1
        at = at + 1 & mask
    return -1


@core
def put_all(seen, bits, digests, n):
    """Put n words in, those that are 0 left out."""
    for i in range(n):
        if digests[i]:
            is_new(seen, bits, digests[i])


class Seen:
    """The set.  table, bits: as core functions take them; count: digests in it."""

    def __init__(self):
        from . import entries
        self.bits, self.count = FIRST_BITS, 0
        self.table = entries.table(1 << self.bits)

    def make_room(self, n):
        """Grow until n more fit (or it is as large as it may get)."""
        from . import entries
        bits = self.bits
        while bits < MOST_BITS and self.count + n > 1 << bits - 1:
            bits += 1
        if bits > self.bits:
            old, self.bits, self.table = self.table, bits, entries.table(1 << bits)
            entries.put_all(self.table, bits, old, len(old))

    @contextmanager
    def slice(self, work, n):
        """One slice of a search, of n operations; work: its words, in which STATES counts what it puts in."""
        self.make_room(n)
        before = int(work[STATES])
        try:
            yield
        finally:
            self.count += int(work[STATES]) - before

    def words(self):
        """The digests, as a table of exactly so many words."""
        if JIT:
            return self.table[self.table != 0]
        return array.array("q", filter(None, self.table))

    def take(self, words):
        """Put saved digests in."""
        from . import entries
        self.make_room(len(words))
        entries.put_all(self.table, self.bits, words, len(words))
        self.count += len(words)
