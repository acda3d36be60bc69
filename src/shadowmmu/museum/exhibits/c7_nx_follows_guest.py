# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU runs with the guest's EFER.NX although shadow entries use bit 63.

id:      C7
year:    2016
commits: 844a5fe219cf
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   -
length:  2

With CR0.WP=0 and SMEP the entry of C5 needs the NX bit even if the guest has no execute protection. On hosts where the real
EFER.NX followed the guest's, bit 63 was then a reserved bit: the access faulted with a reserved-bit error, KVM found its own
entry in order, and the guest tried again for ever.

Fix: the CPU always runs with EFER.NX=1 when shadow paging is used.
"""


@replaces("vm.registers.hardware_efer")
def hardware_efer(vm, vcpu):
    """svm_set_efer: with shadow paging NX always, LME only together with LMA."""
    if state.rules(vm).tdp_enabled:
        return vcpu.efer | EFER_SVME
    efer = vcpu.efer | EFER_SVME
    if not efer & EFER_LMA:
        efer &= ~EFER_LME
    return efer
