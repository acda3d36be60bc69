# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_PRE_FAULT_MEMORY (6.11): userspace has pages mapped before the guest touches them.

    gpa --> reload: there is a root --> a page fault as of a read, without a guest --> FIXED, SPURIOUS: the next page
                                              ^__ RETRY __|

Only with two-dimensional paging: the shadow of a guest's tables is built by linear address.  No request to the vCPU is served on
the way, which is what "Free obsolete roots" (6.15, rule `reload_frees_obsolete`) is about.
"""

from .. import state
from ..state import core
from ..x86.bits import PFERR_GUEST_FINAL
from . import faults, roots

#: -EOPNOTSUPP; and what the kernel has no number for, because it goes on until there is a signal.
EOPNOTSUPP, ENDLESS = -95, -1000
MAX_RETRIES = 8


@core
def do_page_fault(vm, vcpu, gpa):
    """kvm_mmu_do_page_fault with prefetch set."""
    f = state.fault(vm, vcpu.id * 2)
    faults.start(vm, vcpu, f, gpa, PFERR_GUEST_FINAL)
    f.prefetch = 1
    result = faults.before_lock(vm, vcpu, f)
    return faults.finish(vm, vcpu) if result == faults.CONTINUE else result


@core
def map_page(vm, vcpu, gpa):
    """kvm_arch_vcpu_pre_fault_memory, kvm_tdp_map_page: a result of mmu/faults, a negative errno, or ENDLESS."""
    result = roots.reload(vm, vcpu)
    if result != roots.OK:
        return result
    if not state.rules(vm).tdp_enabled or vcpu.guest_mode:
        return EOPNOTSUPP + 0
    for _ in range(MAX_RETRIES):
        result = do_page_fault(vm, vcpu, gpa)
        if result != faults.RETRY:
            return result
    return ENDLESS + 0
