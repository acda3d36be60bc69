# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_PRE_FAULT_MEMORY loops on a root that is obsolete.

id:      E9
year:    2025
commits: 20a6cff3b283
cve:     -
rules:   linux-7.2
change:  -
breaks:  livelock
needs:   host
length:  2

When a memslot goes, every root becomes obsolete, and each vCPU is asked to let its own go before it runs again. Mapping memory in
advance does not run the vCPU. It found a root and was content, found the fault to be stale because the root is obsolete, and
tried again; nobody served the request that would have ended it. The thread that had called KVM spun until it got a signal.

Fix: kvm_mmu_reload frees obsolete roots before it looks whether there is a root.
"""


@replaces("mmu.roots.reload")
def reload(vm, vcpu):
    """kvm_mmu_reload."""
    if state.context(vm, vcpu.mmu).root_hpa != INVALID_PAGE:
        return OK
    return load(vm, vcpu)
