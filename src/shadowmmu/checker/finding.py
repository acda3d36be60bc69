# SPDX-License-Identifier: GPL-2.0-or-later
"""A finding as people use it: the script, what happened, what was permitted, the tables before and after.

    Found (search) --shrink--> Finding --> text, JSON, a script for `shadowmmu check --replay`
"""

from dataclasses import asdict, dataclass

from ..mmu import warn
from ..state import interpreted
from ..x86.bits import FRAME_MASK, NX
from . import architecture, known, ops, search, tlb_model, verify
from . import area as areas
from .architecture import ACCESSES
from .shrink import shrink

U64 = (1 << 64) - 1


@dataclass
class Finding:
    """machine, rules, vcpus, script: to repeat it.  rule, meaning, details: what is violated.  permitted, held: translations of
    the vCPU concerned.  before, after: shadow pages around the last operation.  deviation: name of the known one with this
    very script, or None."""

    machine: str
    rules: str
    vcpus: int
    script: str
    operations: int
    rule: str
    meaning: str
    details: dict
    permitted: list
    held: list
    before: list
    after: list
    deviation: str | None = None

    def as_dict(self):
        return asdict(self)

    def text(self):
        """For the terminal."""
        lines = [f"{self.rule}: {self.meaning}", "", *self.script.rstrip().splitlines(), ""]
        lines += [f"  {name}: {value}" for name, value in self.details.items()]
        for title, rows in (("permitted now", self.permitted), ("held by the hardware", self.held),
                            ("shadow pages before the last operation", self.before), ("after it", self.after)):
            lines += ["", title + ":", *("  " + r for r in rows or ["(none)"])]
        if self.deviation:
            lines += ["", f"known deviation {self.deviation}: {known.DEVIATIONS[self.deviation].story}"]
        return "\n".join(lines)


def access_names(mask):
    """A set of accesses (architecture.ACCESSES) in words."""
    kinds = {0: "read", 2: "write", 16: "fetch"}
    names = [("user " if cpl else "supervisor ") + kinds[kind] + (" AC=1" if ac else "")
             for bit, (kind, cpl, ac) in enumerate(ACCESSES) if mask >> bit & 1]
    return ", ".join(names) or "none"


def _rights(value):
    return "".join(letter if value & bit else "-" for letter, bit in (("W", 2), ("U", 4), ("D", 64))) + (
        " NX" if value & NX else "")


def shadow_pages(view):
    """The shadow pages of a machine as lines."""
    out = []
    spt, translation = interpreted.words(view, view.spt), interpreted.words32(view, view.translation)
    empty = interpreted.rules(view).nonpresent_spte
    for i in range(view.n_pages):
        sp = interpreted.page(view, i)
        if not sp.in_use:
            continue
        first = (view.special_frames + i) << view.level_bits
        flags = ("unsync " if sp.unsync else "") + (f"unsync_children={sp.unsync_children} " if sp.unsync_children else "")
        flags += f"root_count={sp.root_count} " if sp.root_count else ""
        sptes = []
        for k in range(1 << view.level_bits):
            if spt[first + k] != empty:
                gfn = f"={translation[first + k] >> 4}" if sp.has_translation else ""
                sptes.append(f"[{k}]{gfn} {spt[first + k] & U64:#x}")
        out.append(f"sp {i} gfn {sp.gfn} role {sp.role:#x} level {sp.role & 15} {flags}" + " ".join(sptes))
    return out


def permitted_rows(arena, copy, v):
    """The oracle's rows of one vCPU as lines."""
    head = arena.head(copy)
    at = areas.VCPUS + v * areas.VCPU_WORDS
    return [f"pcid {r.pcid} {r.kind} level {r.level} {r.address:#x} -> gfn {r.frame} "
            + "".join(letter if on else "-" for letter, on in (("W", r.write), ("U", r.user), ("D", r.dirty),
                                                               ("G", r.is_global), ("X", not r.no_execute)))
            for r in architecture.rows(head[at:at + areas.VCPU_WORDS])]


def held_rows(arena, copy, v):
    """What the hardware of one vCPU may hold, as lines."""
    head, base = arena.head(copy), areas.VCPUS + v * areas.VCPU_WORDS + areas.HELD
    out = []
    for i in range(head[base + tlb_model.COUNT]):
        name, address, value = (head[base + tlb_model.ROWS + i * tlb_model.ROW_WORDS + k] for k in range(3))
        kind = "table" if name & tlb_model.KIND else "page"
        out.append(f"pcid {name >> tlb_model.PCID_SHIFT} {kind} level {name & tlb_model.LEVEL} {address:#x} -> frame "
                   f"{(value & FRAME_MASK) >> 12:#x} {_rights(value)}")
    return sorted(out)


def _key(script):
    return script.machine, script.vcpus, script.rows


def explain(arena, rows, failure):
    """A Finding for operations that show the failure in this arena (as they are)."""
    before = []

    def watch(i):
        if i == len(rows) - 2:
            before.extend(shadow_pages(arena.view(1)))

    if len(rows) == 1:
        before.extend(shadow_pages(arena.view(0)))
    search.replay(arena, rows, watch)
    head = arena.head(1)
    name, meaning, labels = verify.FAILURES[failure]
    v = max(int(head[areas.FAIL_VCPU]), 0)
    details = {"vcpu": v, "gva": hex(head[areas.FAIL_GVA])}
    for label, value in zip(labels, (head[areas.FAIL_A], head[areas.FAIL_B], head[areas.FAIL_C])):
        if label.startswith("access"):
            details[label] = access_names(value)
        elif label:
            details[label] = hex(value) if value >= 0 else str(value)
    if failure == verify.WARNING:
        details["warning"] = warn.NAMES.get(int(head[areas.FAIL_A]), "?")
    text = ops.script(arena.machine.name, arena.rules, arena.vcpus, rows)
    same = (arena.machine.name, arena.vcpus, list(rows))
    deviation = next((n for n, d in known.DEVIATIONS.items()
                      if d.script and _key(ops.parse(d.script)) == same), None)
    return Finding(arena.machine.name, arena.rules if isinstance(arena.rules, str) else "custom", arena.vcpus, text, len(rows),
                   name, meaning, details, permitted_rows(arena, 1, v), held_rows(arena, 1, v), before,
                   shadow_pages(arena.view(1)), deviation)


def minimal(arena, found):
    """Shrink what a search found and explain it."""
    return explain(arena, shrink(arena, found.rows, found.failure), found.failure)
