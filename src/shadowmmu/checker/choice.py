# SPDX-License-Identifier: GPL-2.0-or-later
"""Which operation comes next in a random walk.

    walk begins   KINDS   two bits per kind of operation: left out, as the machine weighs it, or eight times as often
                  NARROW  two bits per kind: all of its rows, half of them, a quarter
                  FOCUS   one to three linear pages that most of the walk is about; in one walk of four, none (of a
                  machine whose point is that it has many pages: in all)
    operation     a kind by weight --> one of its rows --> among those, about these pages, possible now?  else another one

Bugs need operations that belong together: two changes of the same memslot, an entry and the page that it maps.  Drawn evenly they
seldom meet; in a walk that has few pages and much of one kind they do.  Nothing here knows what a bug looks like.
"""

from .. import state
from ..mmu import dirty, memslots
from ..state import core
from . import area as areas
from . import execute, ops
from .work import ALWAYS, FOCUS, KINDS, NARROW, PAGES, SEED, WALK, WIDE_IN

#: Kinds that are in every walk; what was begun must be finished.
NEVER_OUT = ("access", "store", "finish")
#: A kind's weight counts so many eighths, by its two bits in KINDS.
SHARES = (0, 1, 1, 8)
#: Of a kind's rows one in so many, by its two bits in NARROW.
PARTS = (1, 1, 2, 4)
#: So often is a row looked for that fits, and one that is possible: a vCPU that waits can only finish.
TRIES, PATIENCE = 12, 100


@core
def draw(work, n):
    """A number below n from the generator in SEED."""
    work[SEED] = (work[SEED] * 1103515245 + 12345) & 0x7FFFFFFFFFFF
    return (work[SEED] >> 16) % n


@core
def many_bits(work):
    """60 random bits: two for each of thirty kinds."""
    return draw(work, 1 << 20) << 40 | draw(work, 1 << 20) << 20 | draw(work, 1 << 20)


@core
def begin_walk(work):
    """Choose kinds and pages."""
    n_pages = work[PAGES] + 0
    work[KINDS] = many_bits(work) | work[ALWAYS]
    work[NARROW] = many_bits(work)
    work[WALK] = draw(work, 1 << 16)
    work[FOCUS] = 1 << draw(work, n_pages) | 1 << draw(work, n_pages) | 1 << draw(work, n_pages)
    if not draw(work, work[WIDE_IN]):
        work[FOCUS] = -1


@core
def draw_kind(work, kinds, total):
    """One of the walk's kinds, by weight."""
    while True:
        pick = draw(work, total)
        kind = 0
        while kinds[3 * kind] <= pick:
            kind += 1
        if draw(work, 8) < SHARES[work[KINDS] >> 2 * kind & 3]:
            return kind


@core
def logged(vm, as_id, slot_id):
    """1: the memslot has a dirty log; 0: it has none; -1: there is no such memslot."""
    i = dirty.find_slot(vm, as_id, slot_id)
    if i < 0:
        return -1
    return 1 if state.slot(vm, i).flags & memslots.LOG_DIRTY_PAGES else 0


@core
def possible(vm, area, alphabet, at):
    """False for operations that certainly do nothing in this state."""
    code = alphabet[at]
    if code == ops.HOST_FINISH:
        return areas.head(vm, area)[areas.HOST_CODE] != 0
    if code == ops.SLOT_CREATE:
        return dirty.find_slot(vm, alphabet[at + 6] & 1, alphabet[at + 2]) < 0
    if code == ops.SLOT_DELETE:
        return dirty.find_slot(vm, alphabet[at + 3], alphabet[at + 2]) >= 0
    if code == ops.SLOT_MOVE:
        return dirty.find_slot(vm, alphabet[at + 4], alphabet[at + 2]) >= 0
    if code == ops.DIRTY_LOG:
        return logged(vm, alphabet[at + 4], alphabet[at + 2]) == 1 - alphabet[at + 3]
    if code == ops.DIRTY_READ:
        return logged(vm, alphabet[at + 3], alphabet[at + 2]) == 1
    if code == ops.DIRTY_CLEAR:
        return logged(vm, alphabet[at + 5], alphabet[at + 2]) == 1
    if code >= ops.HOST_WRITE:
        return True
    v = alphabet[at + 1]
    if (execute.pending(vm, area, v)[execute.KIND_OF_PENDING] != execute.NOTHING) != (code == ops.FINISH):
        return False
    if code == ops.VM_EXIT or code == ops.VMFUNC:
        return state.vcpu(vm, v).guest_mode != 0
    if ops.VM_ENTRY <= code <= ops.LEVELS:
        return not state.vcpu(vm, v).guest_mode
    if code == ops.ENTER:
        return not state.vcpu(vm, v).in_guest
    if code == ops.SMM_ENTER or code == ops.SMM_LEAVE:
        return state.vcpu(vm, v).smm == (1 if code == ops.SMM_LEAVE else 0)
    return True


@core
def draw_row(kinds, about, kind, work):
    """One of the kind's rows: among those of this walk, and about its pages, if such a one is met soon."""
    first = kinds[3 * kind + 1]
    count = kinds[3 * kind + 2]
    parts = PARTS[work[NARROW] >> 2 * kind & 3]
    row = first
    for _ in range(TRIES):
        row = first + draw(work, count)
        if about[row] & work[FOCUS] and (row * 0x9E3779B1 + work[WALK] * 0x85EBCA6B >> 12) % parts == 0:
            break
    return row


@core
def operation(vm, area, alphabet, about, kinds, total, work):
    """The row that comes next: its place in `alphabet`.  about: per row, bit per linear page (focus.about)."""
    at = 0
    for _ in range(PATIENCE):
        kind = draw_kind(work, kinds, total)
        at = draw_row(kinds, about, kind, work) * ops.ROW_WORDS
        if possible(vm, area, alphabet, at):
            break
    return at
