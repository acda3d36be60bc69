# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux 7.0 with the fixes of spring 2026; by reading only, no kernel of this version was recorded."""

from .linux_7_2 import LINUX_7_2

LINUX_7_0 = LINUX_7_2 | {
    "role_has_smep": 0,                     # MBEC/GMET came with 7.2
    "mmio_cache_lacks_read": 0,             # the same
    "counts_used_pages_as_stat": 0,
    "unsync_shortcut": 0,                   # b3ae3ceb5569 (7.1)
    "child_role_must_match": 0,             # until 81ccda30b4e8, June 2026
    "stale_check_after_reclaim": 0,         # until CVE-2026-64561
    "track_all_address_spaces": 0,          # until 0f38453cdb2e
}
