# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, with the else-if chain of CR4 left as it was.

id:      S002.pge
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2
base:    s002_repaired.py

The reviewer's fourth point alone: roots are reused, all other flushes are as they should be, but one MOV CR4 that toggles PGE
together with a role bit takes the first branch, and the flush that PGE demands is lost.

Fix: the conditions stand on their own.
"""


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if new & CR4_PCIDE and not old & CR4_PCIDE and not state.rules(vm).tdp_enabled:
        # no flush is due, but a stale previous root could come back by a NOFLUSH load (509bfe3d9796)
        contexts.unload(vm, vcpu)
    if not (new ^ old) & roles.CR4_ROLE_BITS and ((new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE):
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PAE or new & CR4_SMEP and not old & CR4_SMEP:
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))
