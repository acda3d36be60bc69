# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, without the flush for CR4.SMEP.

id:      S002.smep
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2
base:    s002_repaired.py

The reviewer's sixth point: setting CR4.SMEP empties the TLB of the current PCID.

Fix: TLB_FLUSH_CURRENT when SMEP is set.
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
    elif (new ^ old) & CR4_PAE:
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))
