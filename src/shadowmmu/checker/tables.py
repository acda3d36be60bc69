# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a small machine as text, and what one operation changed in them.

    snapshot(view) --> {name of a thing: text}      names: "v0 cr3", "sp 3", "sp 3 [2]", "gfn 5 [1]", "slot 0", ...
    difference(before, after) --> lines             only what changed:

        - sp 3 [1]   gfn 10 P-U frame 0x100000a
        + sp 3 [1]   gfn 9 PWU frame 0x1000009

A shadow page is told as the kernel's people tell it: gfn, level, role in words, unsync, root_count.
"""

from ..mmu import roles
from ..state import interpreted
from ..x86.bits import FRAME_MASK, NX, PT_ACCESSED, PT_DIRTY, PT_PAGE_SIZE, PT_PRESENT, PT_USER, PT_WRITABLE
from . import area as areas

U64 = (1 << 64) - 1
#: An spte that stands for an address without memory: bit 51, present to the CPU, not SPTE_MMU_PRESENT.
MMIO_MARK, MMU_PRESENT = 1 << 51 | PT_PRESENT, 1 << 11
_ENTRY_BITS = ((PT_WRITABLE, "W"), (PT_USER, "U"), (PT_ACCESSED, "A"), (PT_DIRTY, "D"))
_ROLE_WORDS = ((roles.INVALID, "invalid"), (roles.SMM, "smm"), (roles.SMAP_ANDNOT_WP, "smap_andnot_wp"),
               (roles.SMEP_ANDNOT_WP, "smep_andnot_wp"), (roles.CR4_SMEP_BIT, "cr4_smep"), (roles.GUEST_MODE, "guest_mode"),
               (roles.AD_DISABLED, "!ad"))


def role_text(role):
    """level 1, 8-byte, wux, nx: as the kernel prints a role, a little longer."""
    access = role >> roles.ACCESS_SHIFT
    text = "".join(letter if access & bit else "-" for letter, bit in (("w", 2), ("u", 4), ("x", 1)))
    out = f"level {role & roles.LEVEL} {4 if role & roles.HAS_4_BYTE_GPTE else 8}-byte {text}"
    if role & roles.HAS_4_BYTE_GPTE:
        out += f" q{(role & roles.QUADRANT) >> roles.QUADRANT_SHIFT}"
    out += " direct" if role & roles.DIRECT else ""
    out += "" if role & roles.CR0_WP_BIT else " !wp"
    out += "" if role & roles.EFER_NX_BIT else " !nx"
    return out + "".join(" " + word for bit, word in _ROLE_WORDS if role & bit)


def rights(value):
    """W, U, A, D of an entry in letters, and NX."""
    return "".join(letter if value & bit else "-" for bit, letter in _ENTRY_BITS) + (" NX" if value & NX else "")


def spte_text(view, spte, gfn):
    """One spte: what it leads to."""
    if not spte & PT_PRESENT:
        return f"{spte & U64:#x} (not present to the CPU)"
    if spte & MMIO_MARK == MMIO_MARK and not spte & MMU_PRESENT:
        return f"MMIO {spte & U64:#x}"
    frame = (spte & FRAME_MASK) >> 12
    page = frame - view.shadow_pfn - view.special_frames
    if 0 <= page < view.n_pages and not spte & PT_PAGE_SIZE:
        return f"-> sp {page} {rights(spte)}"
    if 0 <= frame - view.ram_pfn < view.n_ram:
        return (f"gfn {gfn} " if gfn is not None else "") + f"-> frame {frame:#x} {rights(spte)}"
    return f"{spte & U64:#x} -> frame {frame:#x}, no page of the VM"


def _shadow_pages(view):
    spt, translation = interpreted.words(view, view.spt), interpreted.words32(view, view.translation)
    empty = interpreted.rules(view).nonpresent_spte
    for i in range(view.n_pages):
        sp = interpreted.page(view, i)
        if not sp.in_use:
            continue
        text = f"gfn {sp.gfn} {role_text(sp.role)}"
        text += " unsync" if sp.unsync else ""
        text += f" unsync_children={sp.unsync_children}" if sp.unsync_children else ""
        text += f" root_count={sp.root_count}" if sp.root_count else ""
        text += " obsolete" if sp.mmu_valid_gen != view.mmu_valid_gen else ""
        yield f"sp {i}", text
        first = (view.special_frames + i) << view.level_bits
        for k in range(1 << view.level_bits):
            if spt[first + k] != empty:
                gfn = translation[first + k] >> 4 if sp.has_translation else None
                yield f"sp {i} [{k}]", spte_text(view, spt[first + k], gfn)


def _vcpus(view):
    for v in range(view.n_vcpus):
        vcpu = interpreted.vcpu(view, v)
        ctx = interpreted.context(view, vcpu.mmu)
        for name in ("cr0", "cr3", "cr4", "efer"):
            yield f"v{v} {name}", f"{getattr(vcpu, name) & U64:#x}"
        yield f"v{v} smm", str(vcpu.smm)
        yield f"v{v} root", root_text(view, ctx.root_hpa, ctx.root_pgd)
        for i in range(3):
            yield f"v{v} prev_roots[{i}]", root_text(view, ctx.prev_hpa[i], ctx.prev_pgd[i])
        if vcpu.requests:
            yield f"v{v} requests", f"{vcpu.requests:#x}"


def root_text(view, hpa, pgd):
    """A root: which shadow page, for which CR3."""
    if hpa == -1:
        return "none"
    page = ((hpa & FRAME_MASK) >> 12) - view.shadow_pfn - view.special_frames
    place = f"sp {page}" if 0 <= page < view.n_pages else f"special root {hpa:#x}"
    return f"{place} for cr3 {pgd & U64:#x}"


def _slots(view):
    for i in range(view.n_slots):
        slot = interpreted.slot(view, i)
        if slot.used:
            yield f"slot {slot.id} as={slot.as_id}", (f"gfn {slot.base_gfn}..{slot.base_gfn + slot.npages - 1} hva "
                                                       f"{slot.hva} flags {slot.flags:#x}")


def _memory(view, head):
    """Guest memory by gfn, where the checker knows its frame."""
    ram = interpreted.words(view, view.ram)
    per_page = 1 << view.page_shift - 3
    for gfn in range(areas.GFNS):
        place = head[areas.FRAMES + gfn]
        for k in range(per_page if place >= 0 else 0):
            word = ram[(place >> 1) * per_page + k]
            if word:
                yield f"gfn {gfn} [{k}]", f"{word & U64:#x}"


def snapshot(arena, copy):
    """Everything in tables, registers and guest memory that a person may ask about, by name."""
    view = arena.view(copy)
    out = dict(_vcpus(view))
    out.update(_shadow_pages(view))
    out.update(_slots(view))
    out.update(_memory(view, arena.head(copy)))
    return out


def shadow_lines(snap):
    """The shadow pages of a snapshot as lines."""
    return [f"{name:<12}{text}" for name, text in snap.items() if name.startswith("sp ")]


def difference(before, after):
    """Lines with - and + for what changed, in the order of the new snapshot."""
    out = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old != new:
            if old is not None:
                out.append(f"- {name:<17} {old}")
            if new is not None:
                out.append(f"+ {name:<17} {new}")
    return out
