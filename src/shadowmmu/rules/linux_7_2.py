# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux 7.2, as the recorded stable kernel 7.2.12."""

from .linux_6_12 import LINUX_6_12

LINUX_7_2 = LINUX_6_12 | {
    "frozen_spte": -(1 << 63) | 0x1A0,
    "tdp_change_traced_last": 1,
    "tdp_nx_recovery_shared": 1,            # a57750909580 (6.18)
    "tdp_recovers_in_place": 1,             # 13e2e4f62a4b (6.13)
    "unsync_shortcut": 1,                   # b3ae3ceb5569 (7.1), with the fix 2e8a2c1b0306
    "role_has_smep": 1,                     # MBEC/GMET: role bit 20, smep_andnot_wp is gone
    "prefetch_same_pfn_spurious": 1,        # 6.13
    "accessed_when_synchronizing": 1,       # 6.14
    "dirty_with_writable": 1,               # 6.13
    "vectoring_check": 1,                   # 6.14
    "mmio_cache_lacks_read": 1,             # MBEC/GMET: access got a read bit that shadow_mmio_access_mask drops
    "counts_used_pages_as_stat": 1,
    "flush_only_mmu_writable": 1,           # 6.13
    "np_enable_ignored": 1,                 # the bit is sanitised like others that CPUID does not offer
    "npt_role_has_wp": 1,
    "write_zaps_orphans": 1,
    "nested_roots_survive": 1,              # 7a2c70e777a0 (July 2026)
    "reload_frees_obsolete": 1,             # 6.15
}
