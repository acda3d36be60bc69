# SPDX-License-Identifier: GPL-2.0-or-later
"""After INIT the vCPU runs on the root it had before.

id:      C23
year:    2021
commits: 0aa1837533e5
cve:     -
rules:   linux-6.12
change:  -
breaks:  fault
needs:   -
length:  2

INIT clears CR0.PG and everything else that the MMU's mode depends on. The reset wrote the registers and left the MMU context
as it was: a vCPU that had been in long mode came up in real mode on 64-bit page tables.

Fix: if CR0.PG was set, INIT resets the MMU context.
"""


@replaces("vm.registers.reset")
def reset(vm, vcpu):
    """The MMU's part of kvm_vcpu_reset for INIT: registers to their start values, and the TLB goes (df37ed38e6c2)."""
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
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        return
    contexts.init_mmu(vm, vcpu)
