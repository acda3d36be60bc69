# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMRUN checks in a VMCB (nested_vmcb_check_save, nested_vmcb_check_controls), in the kernel's order, and where an MSR
stands in the permission map.
"""

from ...x86.bits import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME
from . import exits as svm
from .vmcb import NP_ENABLE

U64 = (1 << 64) - 1
#: Checks by number, as kvm_nested_vmenter_failed has them: the kernel's own texts are in `trace.names`.
(CHECK_SVME, CHECK_CD_NW, CHECK_CR0_HIGH, CHECK_DR6, CHECK_DR7, CHECK_PAE, CHECK_PE, CHECK_CR3, CHECK_CR4, CHECK_EFER,
 CHECK_VMRUN, CHECK_ASID, CHECK_NP, CHECK_MSRPM, CHECK_IOPM, CHECK_LOAD_CR3, CHECK_LOAD_PDPTRS) = range(17)
MSRPM_BYTES, IOPM_BYTES = 0x2000, 0x3000
#: First MSR of each quarter of the permission map, and its byte.
MSR_RANGES = ((0, 0), (0xC0000000, 0x800), (0xC0010000, 0x1000))


def failed_check(v, record, np_enable_allowed):
    """Number of the first check that the VMCB `v` fails, or None.  record: the vCPU's."""
    long_paging = v.efer & EFER_LME and v.cr0 & CR0_PG
    limit = 1 << record.maxphyaddr
    checks = (
        (not v.efer & EFER_SVME, CHECK_SVME), (not v.cr0 & CR0_CD and v.cr0 & CR0_NW, CHECK_CD_NW),
        (v.cr0 >> 32, CHECK_CR0_HIGH), (v.dr6 >> 32, CHECK_DR6), (v.dr7 >> 32, CHECK_DR7),
        (long_paging and not v.cr4 & CR4_PAE, CHECK_PAE), (long_paging and not v.cr0 & CR0_PE, CHECK_PE),
        (long_paging and v.cr3 >= limit, CHECK_CR3), (v.cr4 & record.cr4_reserved & U64, CHECK_CR4),
        (v.efer & record.efer_reserved & U64, CHECK_EFER), (not v.intercepts >> svm.VMRUN & 1, CHECK_VMRUN),
        (v.asid == 0, CHECK_ASID), (v.nested_ctl & NP_ENABLE and not np_enable_allowed, CHECK_NP),
        (v.msrpm + MSRPM_BYTES > limit, CHECK_MSRPM), (v.iopm + IOPM_BYTES > limit, CHECK_IOPM),
    )
    return next((number for bad, number in checks if bad), None)


def msr_place(index):
    """(byte in the permission map, bit of the read permission; write is the next), None outside the map."""
    for first, start in MSR_RANGES:
        if first <= index < first + 0x2000:
            return start + (index - first) // 4, (index - first) % 4 * 2
    return None
