# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_SET_CPUID2 clears the role, and mmu_lock is taken in the wrong way.

id:      C22
year:    2024
commits: 4fa96da3e6fe, 576a15de8d29
cve:     -
rules:   linux-6.12
change:  cpuid_invalidates_role=0
breaks:  warning
needs:   host
length:  1

CPUID decides on bits that are in no role, so a change of CPUID must make every role be computed anew. The whole role was set
to zero for that, `direct` among it. When the roots are freed afterwards, kvm_mmu_free_roots asks `direct` whether the root
belongs to the TDP MMU, and took mmu_lock for write where the TDP MMU wants it for read (found by syzbot, as a lockdep splat).

Fix: mark the role invalid and leave the rest.
"""
