# SPDX-License-Identifier: GPL-2.0-or-later
"""A new CPUID leaves the reserved bits of the old one in force.

id:      C21
year:    2021
commits: 49c6f8756cdf, de3ccd26fafc
cve:     -
rules:   linux-6.12
change:  -
breaks:  not-mmio
needs:   host
length:  3

Which bits of an entry are reserved depends on the width of physical addresses in CPUID, and it is computed when the MMU's
role changes. Setting CPUID again changes no role, so a guest whose MAXPHYADDR was reduced got no fault for a bit that is now
reserved. (An address width in the role, tried in 2019, was taken back.)

Fix: KVM_SET_CPUID marks all roles invalid, so that everything is computed again.
"""


@replaces("mmu.contexts.after_set_cpuid")
def after_set_cpuid(vm, vcpu):
    """Before 49c6f8756cdf: a reset, which does nothing where no role has changed."""
    reset(vm, vcpu)
