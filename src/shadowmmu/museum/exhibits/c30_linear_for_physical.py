# SPDX-License-Identifier: GPL-2.0-or-later
"""A page table write of L2 unprotects the page of that number in L1.

id:      C30
year:    2018
commits: 64531a3b70b1
cve:     -
rules:   linux-6.1
change:  -
breaks:  livelock
needs:   nested guest
length:  3

On AMD a fault while the hardware walks a guest's tables says so (PFERR_NESTED_GUEST_PAGE). If the walk wanted to set a bit in a
page that
KVM protects, shadowing is given up for that gfn, and the guest goes on. The fault's address is L2's physical one while L2 runs,
and
was taken for L1's: the wrong page lost its protection, and L2 faulted for ever.

Fix: only where the MMU is direct.
"""


@replaces("vm.exits.write_protect_fault")
def write_protect_fault(vm, vcpu, addr, error_code):
    """kvm_mmu_write_protect_fault of before 6.12."""
    direct = state.context(vm, vcpu.mmu).root_role & roles.DIRECT
    table_write = PFERR_GUEST_PAGE | PFERR_WRITE | PFERR_PRESENT
    if error_code & table_write == table_write:
        zap.unprotect_gfn(vm, addr >> vm.page_shift)
        return RESUME
    retry = not mmio.in_cache(vm, vcpu, addr, direct) and not vcpu.guest_mode
    return EMULATE | ALLOW_RETRY if retry else EMULATE
