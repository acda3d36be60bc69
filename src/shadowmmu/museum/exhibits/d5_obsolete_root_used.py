# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault goes on although its root was zapped while it waited for the lock.

id:      D5
year:    2021
commits: a955cad84cda
cve:     -
rules:   linux-6.12
change:  -
breaks:  lists
needs:   two vCPUs, host, interleaving
length:  3

Deleting a memslot makes all shadow pages obsolete and asks every vCPU to drop its root. A fault that had started before went
on and put its entries below the obsolete root; children inherit that state, or, worse, entries for memory of the deleted slot
stay.

Fix: under the lock the fault asks whether its root is obsolete, and starts again.
"""


@replaces("mmu.faults.is_stale")
def is_stale(vm, vcpu, f):
    """Before a955cad84cda: only the notifier counts."""
    return f.slot >= 0 and invalidate_retry(vm, f.mmu_seq, f.gfn)
