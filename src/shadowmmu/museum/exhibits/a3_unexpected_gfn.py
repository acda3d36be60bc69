# SPDX-License-Identifier: GPL-2.0-or-later
"""A linked table is taken for the right one although it belongs to another gfn.

id:      A3
year:    2026
commits: 0cb2af2ea66a
cve:     CVE-2026-46113
rules:   linux-6.12
change:  child_gfn_must_match=0, link_zaps_any=0
breaks:  warning
needs:   -
length:  3

A fault that finds a table linked where it wants to link one keeps it. For a table without a guest counterpart (a 2M guest
page that the host maps in 4K pieces) the gfn of each entry is computed from the table's own. When the guest's PDE comes to
name another 2M page behind the MMU's back, the old table stays, entries for the new page are put into it, and their reverse
map entries are filed under a gfn at which nobody will look for them again: once that memory goes away the entries stay
behind, pointing into freed pages.

Fix: kvm_mmu_get_child_sp keeps the table only if its gfn is the one wanted, and linking zaps whatever stood there.
"""
