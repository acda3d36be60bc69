# SPDX-License-Identifier: GPL-2.0-or-later
"""INIT keeps the TLB.

id:      B11
year:    2021
commits: df37ed38e6c2
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -

INIT switches paging off, and Intel's manual demands that all translations go. KVM reset the MMU's context and asked for no
flush. With two-dimensional paging the guest's old translations could be used afterwards. With shadow paging, which is what is
searched here, nothing is left of it: the reset drops every root, and loading the next one flushes the hardware whatever was
asked for.

Fix: INIT with CR0.PG set asks for a flush of the guest's translations.
"""


@replaces("vm.registers.reset")
def reset(vm, vcpu):
    """The MMU's part of kvm_vcpu_reset for INIT."""
    old_cr0 = vcpu.cr0
    vcpu.smm = 0
    vcpu.efer = 0
    vcpu.cr0 = CR0_ET | old_cr0 & (CR0_NW | CR0_CD)
    vcpu.cr4 = 0
    vcpu.cr3 = 0
    vcpu.cs_l = 0
    vcpu.cpl = 0
    vcpu.ac = 0
    if old_cr0 & CR0_PG:
        contexts.reset(vm, vcpu)
    else:
        contexts.init_mmu(vm, vcpu)
