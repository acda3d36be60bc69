# SPDX-License-Identifier: GPL-2.0-or-later
"""A flush of the guest's whole TLB empties the hardware and leaves the shadow as it is.

id:      B3
year:    2021
commits: b53e84eed08b
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2

A guest can ask for a flush of its TLB by hypercall (or by its paravirtual clock page). KVM answered by flushing the hardware.
With nested paging that is all there is; with shadow paging the shadow tables are part of the guest's TLB, and unsync pages in
them still hold what the guest wanted to be rid of.

Fix: with shadow paging all roots go (today: the current root is synchronised and unsync cached ones are freed).
"""


@replaces("vm.entry.flush_tlb_guest")
def flush_tlb_guest(vm, vcpu):
    """kvm_vcpu_flush_tlb_guest: the guest's TLB is emptied; with shadow paging, all its tables must be in order."""
    vcpu.stat[counters.TLB_FLUSH] += 1
    flush.tlb_hardware(vcpu)
