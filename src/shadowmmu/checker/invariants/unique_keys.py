# SPDX-License-Identifier: GPL-2.0-or-later
"""At most one valid shadow page per (gfn, role).

Dossier 2.3, row "hash table".  Two would mean that writes, syncs and zaps reach one of them only; valid means neither
invalid nor of an older generation.
"""

from .picture import look


def check(vm):
    seen, out = {}, []
    for page in look(vm).valid:
        key = page.gfn, page.role
        if key in seen:
            out.append(f"{page} has the same gfn and role as page {seen[key]}")
        seen.setdefault(key, page.id)
    return out
