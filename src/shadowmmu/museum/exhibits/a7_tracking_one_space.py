# SPDX-License-Identifier: GPL-2.0-or-later
"""Write tracking is looked up in one address space only.

id:      A7
year:    2026
commits: 0f38453cdb2e
cve:     -
rules:   linux-6.12
change:  track_all_address_spaces=0
breaks:  warning
needs:   SMM
length:  3

An upper-level shadow page counts itself in the memslot of its own address space: the one of system management mode if the
page was made there. A write fault outside SMM asked only its own memslot whether the gfn is tracked, got a no, and went on to
mark the pages of that gfn unsync, of whatever level they were. Only level-1 pages may be unsync; the kernel runs into BUGs
from there.

Fix: kvm_gfn_is_write_tracked looks into the memslots of every address space.
"""
