# SPDX-License-Identifier: GPL-2.0-or-later
"""After giving mmu_lock away, a loop over the TDP MMU's entries leaves one out.

id:      D13
year:    2021
commits: 3a0f64de479c
cve:     CVE-2021-47094
rules:   linux-6.12
change:  -
breaks:  tdp-trees
needs:   host
length:  2

A loop over many entries drops mmu_lock now and then. Afterwards the tables that led to its place may be gone, so it starts once
more at the root, at the gfn at which it was, which it has not looked at yet. The restart was made at once, and the loop's own
step to the next entry came on top. Below the root that leads to the right place. Where the loop's entries are those of the root,
the one at which it stopped is left out: a root that is zapped before it is freed keeps a table, with all that hangs below.

Fix: note that the lock was given away; the step to the next entry then restarts instead.
"""


@replaces("mmu.tdp_iter.cond_resched")
def cond_resched(vm, it):
    """tdp_mmu_iter_cond_resched, restarting the iterator itself."""
    if not state.rules(vm).tdp_yields or it.next_last_level_gfn == it.yielded_gfn:
        return False
    restart(vm, it)
    return True
