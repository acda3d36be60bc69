# SPDX-License-Identifier: GPL-2.0-or-later
"""A finding as people use it: the script, what happened, what was permitted, which rule, and what changed in the tables.

    Found (search) --shrink--> Finding --> text, JSON, a script for `shadowmmu check --replay`

A finding that disappears when a known deviation is set aside (`known`) is that deviation.  If the deviation is withheld, the
finding carries its name and story and nothing else.
"""

from dataclasses import dataclass, field

from ..mmu import warn
from ..state import PATCH
from ..x86.bits import FRAME_MASK
from . import architecture, causes, geometry, known, ops, search, tables, tlb_model, verify
from . import area as areas
from .architecture import ACCESSES
from .shrink import shrink

#: Columns of the text.
WIDTH = 100


@dataclass
class Finding:
    """machine, rules, vcpus, script: to repeat it.  rule, meaning, details: what is violated.  permitted, held: translations
    of that address on that vCPU.  change: what the last operation changed.  manual, kvm, commits, invariant: see `causes`.
    shape: equal for findings of one cause.  deviation: the known one, or None; withheld: then nothing but its name and story
    is told.  failure, place, rows: the same as numbers (place: vCPU, address, FAIL_A, _B, _C)."""

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
    change: list
    tables: list
    cause: causes.Cause
    shape: str
    deviation: str | None = None
    withheld: bool = False
    patched: bool = False
    failure: int = 0
    place: tuple = (-1, 0, 0, 0, 0)
    rows: list = field(default_factory=list)

    @property
    def story(self):
        """What is known about the deviation."""
        return known.DEVIATIONS[self.deviation].story if self.deviation else ""

    def as_dict(self):
        """For JSON."""
        if self.withheld:
            return {"rules": self.rules, "deviation": self.deviation, "story": self.story, "withheld": True}
        return {"machine": self.machine, "rules": self.rules, "vcpus": self.vcpus, "patched": self.patched,
                "operations": self.operations, "script": self.script, "rule": self.rule, "meaning": self.meaning,
                "details": self.details, "permitted": self.permitted, "held": self.held, "change": self.change,
                "tables": self.tables, "manual": self.cause.manual, "kvm": self.cause.kvm,
                "commits": self.cause.commits, "invariant": self.cause.invariant, "shape": self.shape,
                "deviation": self.deviation, "story": self.story, "withheld": False}

    def text(self):
        """For the terminal and for mails."""
        if self.withheld:
            return "\n".join([f"FINDING  known deviation {self.deviation} (withheld)", "", *wrap(self.story)])
        lines = [f"FINDING  {self.rule}, after {self.operations} operation{'s' if self.operations > 1 else ''}"
                 f"{' on the patched MMU' if self.patched else ''}", *wrap(self.meaning), "", "script",
                 *("    " + line for line in self.script.rstrip().splitlines()), "", "what happened"]
        for name, value in self.details.items():
            lines += wrap(f"{name}: {value}", indent=2)
        for title, rows in (("permitted for this address", self.permitted), ("held by the hardware for it", self.held),
                            ("what the last operation changed", self.change),
                            ("shadow pages after it", self.tables)):
            lines += ["", title, *("  " + r for r in rows or ["(nothing)"])]
        lines += ["", "where to look"]
        for title, text in (("manual", self.cause.manual), ("KVM", self.cause.kvm),
                            ("bugs like it", self.cause.commits),
                            (self.cause.invariant, causes.INVARIANTS.get(self.cause.invariant, ""))):
            if text:
                lines += wrap(f"{title}: {text}", indent=2)
        if self.deviation:
            lines += ["", f"This is the known deviation {self.deviation} (it is gone with --aside {self.deviation}).",
                      *wrap(self.story)]
        return "\n".join(lines)


def wrap(text, indent=0):
    """Lines of at most WIDTH columns."""
    import textwrap
    pad = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=pad, subsequent_indent=pad + "  ", break_on_hyphens=False)


_KINDS = {0: "read", 2: "write", 16: "fetch"}


def access_names(mask):
    """A set of accesses (architecture.ACCESSES) in words: "supervisor read, write; user read"."""
    out = {}
    for bit, (kind, cpl, ac) in enumerate(ACCESSES):
        if mask >> bit & 1:
            out.setdefault(("user" if cpl else "supervisor") + (" with AC=1" if ac else ""), []).append(_KINDS[kind])
    return "; ".join(f"{who} {', '.join(what)}" for who, what in out.items()) or "none"


def _mentioned(address, size, gva):
    return gva is None or address <= gva < address + size


def permitted_rows(arena, copy, v, gva=None):
    """The oracle's rows of one vCPU as lines; gva: of this address only."""
    head = arena.head(copy)
    at = areas.VCPUS + v * areas.VCPU_WORDS
    bits = arena.machine.index_bits
    out = []
    for r in architecture.rows(head[at:at + areas.VCPU_WORDS]):
        if _mentioned(r.address, geometry.PAGE << bits * (r.level - 1), gva):
            letters = "".join(letter if on else "-" for letter, on in (
                ("W", r.write), ("U", r.user), ("D", r.dirty), ("G", r.is_global)))
            out.append(f"pcid {r.pcid} {r.kind} level {r.level} {r.address:#x} -> gfn {r.frame} {letters}"
                       + (" NX" if r.no_execute else ""))
    return out


def held_rows(arena, copy, v, gva=None):
    """What the hardware of one vCPU may hold, as lines."""
    view, head = arena.view(copy), arena.head(copy)
    base = areas.VCPUS + v * areas.VCPU_WORDS + areas.HELD
    out = []
    for i in range(head[base + tlb_model.COUNT]):
        name, address, value = (head[base + tlb_model.ROWS + i * tlb_model.ROW_WORDS + k] for k in range(3))
        level = name & tlb_model.LEVEL
        span = level if name & tlb_model.KIND else level - 1
        if not _mentioned(address, geometry.PAGE << view.level_bits * span, gva):
            continue
        kind = "walk to a table of" if name & tlb_model.KIND else "translation"
        frame = (value & FRAME_MASK) >> 12
        out.append(f"pcid {tlb_model.pcid_of(name)} {kind} level {level} {address:#x} -> "
                   f"{frame_text(arena, copy, frame)} {tables.rights(value)}")
    return sorted(out)


def frame_text(arena, copy, frame):
    """A host frame as what it is: a page of the VM or a shadow page."""
    view, head = arena.view(copy), arena.head(copy)
    page = frame - view.shadow_pfn - view.special_frames
    if 0 <= page < view.n_pages:
        return f"sp {page}"
    gfns = [gfn for gfn in range(areas.GFNS) if head[areas.FRAMES + gfn] >= 0
            and (head[areas.FRAMES + gfn] >> 1) + view.ram_pfn == frame]
    if gfns:
        return f"gfn {gfns[0]}"
    return f"frame {frame:#x}" + (", which no gfn has" if 0 <= frame - view.ram_pfn < view.n_ram else ", not the VM's")


def _details(arena, failure):
    head = arena.head(1)
    name, meaning, labels = verify.FAILURES[failure]
    v, gva = int(head[areas.FAIL_VCPU]), int(head[areas.FAIL_GVA])
    out = {"vcpu": v, "linear address": hex(gva)} if v >= 0 else {}
    for label, value in zip(labels, (head[areas.FAIL_A], head[areas.FAIL_B], head[areas.FAIL_C])):
        value = int(value)
        if label.startswith("access") and failure not in (verify.FAULT, verify.LIVELOCK, verify.NOT_MMIO):
            out[label] = access_names(value)
        elif label == "access":
            out[label] = _KINDS.get(value & 18, "read")
        elif label == "frame" and value >= 0:
            out[label] = f"{value:#x} ({frame_text(arena, 1, value)})"
        elif label:
            out[label] = hex(value) if value >= 0 else str(value)
    if failure == verify.WARNING:
        out["warning"] = warn.NAMES.get(int(head[areas.FAIL_A]), "?")
    return name, meaning, out, v, gva


def shape(failure, rows):
    """What findings of one cause have in common: the failure and the kinds of operations of the minimal script."""
    return verify.FAILURES[failure][0] + ": " + ", ".join(ops.BY_CODE[row[0]].name for row in rows)


def deviation_of(arena, rows):
    """Name of the known deviation that this is: the failure is gone when it is set aside, too.  None for none."""
    for name, deviation in known.DEVIATIONS.items():
        if arena.aside & deviation.bit:
            continue
        wider = geometry.Arena(arena.machine, arena.rules, arena.vcpus, copies=2, aside=arena.aside | deviation.bit)
        if not search.replay(wider, rows)[0]:
            return name
    return None


def explain(arena, rows, failure):
    """A Finding for operations that show the failure in this arena (as they are)."""
    snapshots = [tables.snapshot(arena, 0)]

    def watch(i):
        snapshots.append(tables.snapshot(arena, 1))
        del snapshots[:-2]

    rows = list(rows)
    search.replay(arena, rows, watch)
    before, after = snapshots
    name, meaning, details, v, gva = _details(arena, failure)
    head = arena.head(1)
    place = tuple(int(head[k]) for k in (areas.FAIL_VCPU, areas.FAIL_GVA, areas.FAIL_A, areas.FAIL_B, areas.FAIL_C))
    deviation = deviation_of(arena, rows)
    return Finding(
        machine=arena.machine.name, rules=arena.rules if isinstance(arena.rules, str) else "custom", vcpus=arena.vcpus,
        script=ops.script(arena.machine.name, arena.rules, arena.vcpus, rows), operations=len(rows), rule=name,
        meaning=meaning, details=details, permitted=permitted_rows(arena, 1, v, gva) if v >= 0 else [],
        held=held_rows(arena, 1, v, gva) if v >= 0 else [], change=tables.difference(before, after),
        tables=tables.shadow_lines(after), cause=causes.cause(failure, rows[-1][0]), shape=shape(failure, rows),
        deviation=deviation, withheld=deviation is not None and known.DEVIATIONS[deviation].script is None,
        patched=bool(PATCH.text), failure=failure, place=place, rows=rows)


def minimal(arena, found):
    """Shrink what a search found and explain it."""
    return explain(arena, shrink(arena, found.rows, found.failure), found.failure)
