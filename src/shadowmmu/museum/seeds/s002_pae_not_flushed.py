# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, without the flush for CR4.PAE.

id:      S002.pae
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -
base:    s002_repaired.py

The reviewer's fifth point: toggling CR4.PAE empties the TLB of the current PCID. Unloading did that for nothing; with reuse
it seems that it must be asked for. It need not with shadow paging: PAE can be toggled outside long mode only, the roots there
are special ones, and these are dropped before any lookup (seed 000) and synchronised when they are made. With 64-bit tables
below a PAE guest it would.

Fix: TLB_FLUSH_CURRENT when PAE changes; here it changes nothing.
"""


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if new & CR4_PCIDE and not old & CR4_PCIDE and not state.rules(vm).tdp_enabled:
        # no flush is due, but a stale previous root could come back by a NOFLUSH load (509bfe3d9796)
        contexts.unload(vm, vcpu)
    if (new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif new & CR4_SMEP and not old & CR4_SMEP:
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))
