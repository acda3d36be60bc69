# SPDX-License-Identifier: GPL-2.0-or-later
"""A direct page's gfn arithmetic: entry i stands for gfn + i * span.

    the page's gfn is aligned to what the page covers; a table linked below a direct page is direct and starts where
    the entry points

Dossier 2.3, row "shadowed_translation", and A3: a leaf for another gfn inside a direct page is what CVE-2026-46113 was.
That each leaf maps the host frame of its computed gfn is checked in `leaf_sptes`.
"""

from .picture import look


def check(vm):
    p, out = look(vm), []
    for page in p.everything():
        if page.direct and not page.invalid and page.gfn % (p.span(page.level) * p.entries):
            out.append(f"{page} is direct and not aligned")
    for link in p.links:
        if link.child and link.parent.direct:
            right = link.parent.gfn + link.index * p.span(link.parent.level)
            if not link.child.direct or link.child.gfn != right:
                out.append(f"entry {link.index} of {link.parent} should lead to a direct page of gfn {right:#x}, "
                           f"leads to {link.child}")
    return out
