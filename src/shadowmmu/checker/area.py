# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker's own state: it lies behind the machine in the same buffer, so that one copy copies both.

    | machine (state.Store) | scratch records | area                                                      |
    0                                         area (byte offset that every function here is given)

    area:  header | gvas | frames of address spaces 0, 1 | RAM as last seen | scratch | vCPU 0 | vCPU 1 | ...
    vCPU:  oracle's CPU | what is permitted (oracle.tlb) | fresh walks | rights | what the hardware may hold (tlb_model)

All of it is signed 64-bit words; places are word indices from the area's start.
"""

from .. import state
from ..oracle import tlb, walker
from ..state import core

#: Header words.  FAIL: 0 or what is wrong (`verify.FAILURES`) and details; SKIPPED: the operation could not be done;
#: OUTCOME: of an access; FULL: a table of translations overflowed, the state is not judged any further.  CHANGED, STALE: bit
#: per vCPU, the set of permitted translations is new, or must be made anew; RIGHTS: the same of the rights tables; FREE_RAM:
#: host frames left when FRAMES were read; TAINTED: the host changed a guest page table that a synced shadow page shadows (see
#: `host_side.taint`); ASIDE: deviations that are known and not looked for (`known`); UNTRACKED: vCPUs whose emulated write is
#: in memory and not yet known to the MMU; HOST_CODE, HOST_A, HOST_B: what the host has begun (an operation's code and
#: parameters; 0: nothing); KEPT: a vCPU has loaded CR3, or entered L2, without a flush: translations by two roots
#: may meet under one tag; L2_CR0 ...: registers of an L2 that pages itself (l2_paging; 0: it does not);
#: UNSHADOWED: the guest's own tables are nobody's shadow (`unshadowed`).
(N_GVAS, LIMIT, FAIL, FAIL_VCPU, FAIL_GVA, FAIL_A, FAIL_B, FAIL_C, SKIPPED, OUTCOME, FULL, CHANGED, STALE,
 FREE_RAM, TAINTED, ASIDE, UNTRACKED, HOST_CODE, HOST_A, HOST_B, RIGHTS, KEPT, L2_CR0, L2_CR3, L2_CR4,
 UNSHADOWED) = range(26)
GVAS, MAX_GVAS = 26, 24
FRAMES, GFNS = GVAS + MAX_GVAS, 32
SNAPSHOT, MAX_RAM_WORDS = FRAMES + 2 * GFNS, 96
OUT = SNAPSHOT + MAX_RAM_WORDS
BEFORE = OUT + walker.OUT_WORDS
OUTCOMES = BEFORE + walker.OUT_WORDS

ORACLE_ROWS, HARDWARE_ROWS = 120, 96
VCPUS = OUTCOMES + 2 * ORACLE_ROWS + 8

#: Places within a vCPU's block.  PENDING: what the vCPU has begun (`execute`): nothing, a fault or a write; then gva, kind,
#: value, size, flags, error code, gpa, generation of the memslots.  TABLES: bit per gfn on which the set of permitted
#: translations depends.  FRESH: per gva
#: (frame, access mask) of the walk from CR3 at this moment.  PATHS: per gva, bit per RAM frame that this walk read; -1 if the
#: gva was also walked from held partial walks.
CPU = 0
PENDING = walker.CPU_WORDS
PENDING_WORDS = 9
TABLES = PENDING + PENDING_WORDS
GUEST_RIGHTS = TABLES + 1
HARDWARE_RIGHTS = GUEST_RIGHTS + 16
FRESH = HARDWARE_RIGHTS + 8
PATHS = FRESH + 2 * MAX_GVAS
PERMITTED = PATHS + MAX_GVAS
HELD = PERMITTED + tlb.words_for(ORACLE_ROWS)
HELD_WORDS = 4 + 3 * HARDWARE_ROWS
VCPU_WORDS = HELD + HELD_WORDS

#: Elements of FRAMES that are no frame: no memslot; a memslot (or a read-only one) whose host page is not there yet.
NO_SLOT, ABSENT, ABSENT_READONLY = walker.NO_FRAME, -2, -3


def words(vcpus):
    """Words of an area for so many vCPUs (without l2_paging's part)."""
    return VCPUS + vcpus * VCPU_WORDS


@core
def head(vm, area):
    """The area's words from its start."""
    return state.words(vm, area)


@core
def nested(vm, area):
    """Is this a machine with nested paging: a hypervisor on the direct MMU, whose tables for its guest are shadowed?"""
    return state.rules(vm).tdp_enabled != 0 and not head(vm, area)[UNSHADOWED]


@core
def part(vm, area, v, place):
    """Words of vCPU `v`'s block from `place`."""
    return state.words(vm, area + 8 * (VCPUS + v * VCPU_WORDS + place))


@core
def common(vm, area, place):
    """Words of the common part from `place`."""
    return state.words(vm, area + 8 * place)


@core
def skip(vm, area):
    """The operation could not be done."""
    head(vm, area)[SKIPPED] = 1


@core
def fail(vm, area, what, v, gva, a, b, c):
    """Note the first failure."""
    h = head(vm, area)
    if h[FAIL]:
        return
    h[FAIL] = what
    h[FAIL_VCPU] = v
    h[FAIL_GVA] = gva
    h[FAIL_A] = a
    h[FAIL_B] = b
    h[FAIL_C] = c
