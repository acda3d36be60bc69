# SPDX-License-Identifier: GPL-2.0-or-later
"""The hardware is told the host's number of levels for L1's EPT.

id:      C16
year:    2020
commits: 148d735eb55d
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   nested guest
length:  2

The EPTP that the hardware gets names the number of levels. It was the host's own, five, also for a shadow of L1's EPT of four
levels,
and the hardware walked one level too many: L2 could not touch anything, for ever.

Fix: the level is that of the MMU whose root is loaded.
"""


@replaces("vm.two_dimensional.load_registers")
def load_registers(vm, vcpu, h):
    """construct_eptp(vmx, get_ept_level(vcpu), ...): the level of the host."""
    h.cr0 = registers.hardware_cr0(vm, vcpu)
    h.cr3 = vcpu.cr3
    h.cr4 = registers.hardware_cr4(vm, vcpu)
    h.efer = registers.hardware_efer(vm, vcpu)
    h.nested_root = vcpu.hw_root
    ctx = state.context(vm, vcpu.mmu)
    h.nested_level = vcpu.tdp_level
    h.ept = 1 if ctx.kind == contexts.PAGING_EPT else 0
    h.phys_bits = vcpu.maxphyaddr
    h.pkru = vcpu.pkru
    h.rsvd_without_present = 0
    h.pdpte_accessed = 0
    h.peek = 0
