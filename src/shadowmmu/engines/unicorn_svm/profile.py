# SPDX-License-Identifier: GPL-2.0-or-later
"""What kind of AMD host we pretend to be: features of its SVM that show in KVM's event log.

Without DecodeAssists KVM decodes CR and INVLPG exits itself (a fetch walk before each); without NRIPS it decodes
every instruction that it skips.  QEMU 7.2's TCG, on which the golden logs were recorded, has neither; it empties its
TLB at every VMRUN and #VMEXIT, reports a reserved-bit fault without P, and calls an interrupted INT3 a software
interrupt.
"""

from dataclasses import dataclass

from ...x86.bits import PFERR_PRESENT, PFERR_RSVD


@dataclass(frozen=True)
class HostProfile:
    """decode_assists, nrips: CPUID Fn8000_000A EDX bits 7 and 3.  flush_on_world_switch: the TLB does not survive an
    exit.  rsvd_without_present: PFEC of a reserved-bit fault lacks P.  soft_exceptions_as_interrupts: EXITINTINFO type of
    INT3 and INTO is 4, not 3.  stale_event_type: after an event was delivered, the next exit's EXITINTINFO still has
    its type (without the valid bit).  pdpte_accessed: a page walk sets A in a PAE PDPTE, where it is reserved (the recorder
    taught KVM's load_pdptrs to accept that).  faults_push_rf: a fault delivered without an exit pushes RFLAGS with RF
    (SDM vol. 3 17.3.1.1).  maxphyaddr: width of the host's physical addresses."""

    name: str
    decode_assists: bool = True
    nrips: bool = True
    flush_on_world_switch: bool = False
    rsvd_without_present: bool = False
    soft_exceptions_as_interrupts: bool = False
    stale_event_type: bool = False
    pdpte_accessed: bool = False
    faults_push_rf: bool = True
    maxphyaddr: int = 40

    def page_fault_code(self, error_code):
        """The error code of a #PF exit as this host reports it."""
        if self.rsvd_without_present and error_code & PFERR_RSVD:
            return error_code & ~PFERR_PRESENT
        return error_code


AMD = HostProfile("amd")
TCG = HostProfile("tcg", decode_assists=False, nrips=False, flush_on_world_switch=True, rsvd_without_present=True,
                  soft_exceptions_as_interrupts=True, stale_event_type=True, pdpte_accessed=True, faults_push_rf=False)
PROFILES = {profile.name: profile for profile in (AMD, TCG)}
