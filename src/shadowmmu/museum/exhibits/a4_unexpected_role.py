# SPDX-License-Identifier: GPL-2.0-or-later
"""A linked table of the right gfn is kept although it plays another role.

id:      A4
year:    2026
commits: 81ccda30b4e8
cve:     CVE-2026-53359
rules:   linux-6.12
change:  child_role_must_match=0
breaks:  warning
needs:   -
length:  5

The check of A3 compared gfns only. A PDE that named a 2M page at gfn G and now names a page table at the same gfn G leads to
a direct table where a shadow of the guest's table is wanted; both have gfn G, so the direct one stays. It computes the gfns
of its entries instead of remembering them, while the leaf that is put in comes from the guest's table. Again the rmap is
filed wrongly and entries survive their memory; it was reported as Januscape, a way from guest to host.

Fix: the whole role must match, too.
"""
