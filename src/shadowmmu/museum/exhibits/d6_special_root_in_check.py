# SPDX-License-Identifier: GPL-2.0-or-later
"""The check of D5 looks for the shadow page of a root that has none.

id:      D6
year:    2021
commits: 18c841e1f411
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   -
length:  1

The first version of that fix read the role of the root's shadow page. A PAE root is a bare page of four entries; nothing
describes it, and the host dereferenced NULL at the first fault of a 32-bit guest.

Fix: a root without a shadow page counts as obsolete if a request to drop obsolete roots is pending.
"""


@replaces("mmu.faults.is_stale")
def is_stale(vm, vcpu, f):
    """is_page_fault_stale."""
    i = roots.root_to_sp(vm, state.context(vm, vcpu.mmu).root_hpa)
    if i < 0:
        # is_obsolete_sp(kvm, to_shadow_page(root.hpa))
        warn.warn(vm, 42)
        return False
    if shadow_pages.is_obsolete(vm, state.page(vm, i)):
        return True
    return f.slot >= 0 and invalidate_retry(vm, f.mmu_seq, f.gfn)
