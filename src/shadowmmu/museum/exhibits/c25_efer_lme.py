# SPDX-License-Identifier: GPL-2.0-or-later
"""Userspace changes EFER.LME and the MMU is not told.

id:      C25
year:    2022
commits: d6174299365d
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   host
length:  -

KVM_SET_MSRS may change EFER.LME under a running guest, which the guest itself cannot do while paging is on. Only a change of
EFER.NX reset the MMU context. Nothing follows from it that a guest could see: LMA, which decides how addresses are translated,
stays as it was, and LME is in no role (tests/mmu/test_mmu_roles.py shows it for every value of the registers), so the reset
does nothing but drop the roots.

Fix: a change of LME resets it, too.
"""


@replaces("vm.registers.set_efer")
def set_efer(vm, vcpu, value, from_host):
    """set_efer."""
    old = vcpu.efer
    if value & vcpu.efer_reserved:
        return True
    if not from_host and vcpu.cr0 & CR0_PG and (old ^ value) & EFER_LME:
        return True
    value = value & ~EFER_LMA | old & EFER_LMA
    vcpu.efer = value
    if (value ^ old) & EFER_NX:
        contexts.reset(vm, vcpu)
    return False
