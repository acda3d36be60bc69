# SPDX-License-Identifier: GPL-2.0-or-later
"""A remote TLB flush reaches vCPU 0 only."""


@replaces("mmu.flush.remote_tlbs")
def remote_tlbs(vm):
    vcpu = state.vcpu(vm, 0)
    vcpu.requests |= REQ_TLB_FLUSH
    vcpu.in_guest = 0
