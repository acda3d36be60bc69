# SPDX-License-Identifier: GPL-2.0-or-later
"""EPTP switching notes A and D bits in the wrong MMU.

id:      C20
year:    2021
commits: 272b0a998d08
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   nested guest
length:  -

VMFUNC lets L2 take another EPTP of L1's list. Whether the new one uses A and D bits was written into the role of nested_mmu,
which
walks L2's own tables and has no such thing. Nothing reads it there, so nobody could see it.

Fix: vcpu->arch.mmu.
"""


@replaces("vm.nested_guest.switch_eptp")
def switch_eptp(vm, vcpu, eptp):
    """nested_vmx_eptp_switching (VMFUNC 0 of L2): True when the EPTP is refused."""
    if eptp == vcpu.nested_pgd:
        return False
    if not ept.is_valid_eptp(vcpu, eptp):
        return True
    vcpu.nested_pgd = eptp
    walk_mmu = state.context(vm, vcpu.walk_mmu)
    walk_mmu.cpu_role = walk_mmu.cpu_role & ~roles.AD_DISABLED | (0 if eptp & ept.EPTP_AD_ENABLE else roles.AD_DISABLED)
    ept.init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), eptp)
    if vcpu.vpid == 0:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    return False
