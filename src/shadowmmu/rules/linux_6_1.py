# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux 6.1, as the recorded stable kernel 6.1.192."""

from .linux_6_12 import LINUX_6_12

LINUX_6_1 = LINUX_6_12 | {
    "nonpresent_spte": 0,
    "invlpg_zaps": 1,                   # until 9fd4a4e3a3d9 (6.4)
    "sync_skips_same_access": 0,        # until the per-spte sync callback (6.4)
    "sregs_flush_guest_tlb": 0,         # until 6.9
    "paging_on_rewrites_cr4": 0,        # until svm_set_cr0 refreshed CR4 for SMEP and SMAP
    "svm_flushbyasid": 0,               # until 6.7
    "pre_fault": 0,                     # until 6.11
    "dummy_root": 0,                    # until 0e3223d8d00a (6.6)
    "cpuid_invalidates_role": 0,        # until 4fa96da3e6fe (6.13, 6.12 stable)
    "roots_freed_shared": 0,            # until 576a15de8d29 (6.9)
    "frozen_spte": 0x5A0,               # REMOVED_SPTE; with SHADOW_NONPRESENT_VALUE since 6.10
    "tdp_zap_from_4k": 0,
    "unprotect_reworked": 0,            # until the 6.12 rework of unprotect-and-retry
}
