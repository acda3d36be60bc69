# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of the whole MMU state at one moment: ours and the kernel's in one normal form, and their first difference.

    StateDump (ints, host frames) --normal(kernel)--+
                                                     +--> NormalDump <--> text as in golden spn/
    sp_NNN_markK.txt (the kernel's) --parse_raw-----+

In the normal form a frame is P<gfn>/<role> if it is the table of a listed shadow page, G<gfn> if it is a guest page,
? otherwise; roles are words of the kernel that was recorded; list order is that of active_mmu_pages, newest first.
"""

import re
from dataclasses import dataclass, field

from . import layouts
from .errors import TraceError
from .text import spte_text

_U64 = (1 << 64) - 1
INVALID_HPA = _U64
#: A root that is not a listed page: pae_root, pml4_root, or the dummy root.
SPECIAL_ROOT = "pae_root/pml4_root/dummy"
#: SHADOW_NONPRESENT_VALUE since 6.10.
NONPRESENT = 1 << 63


# -- the normal form

@dataclass
class Page:
    """One shadow page.  `sptes`: index -> text.  `kind`: SP, or TSP for a table of the TDP MMU."""

    gfn: int
    role: int
    unsync: int = 0
    gen: int = 0
    root_count: int = 0
    unsync_children: int = 0
    wflood: int = 0
    parents: str = "0"
    sptes: dict = field(default_factory=dict)
    kind: str = "SP"


@dataclass
class Context:
    """One struct kvm_mmu: texts of the roots, roles in hex as printed."""

    name: str = "root_mmu"
    root: str = "-"
    pgd: int = 0
    cpu_role: int = 0
    root_role: int = 0
    prev: list = field(default_factory=list)          # (root text, pgd), newest first
    tables: list = field(default_factory=list)        # (name, spte text): PAEROOT0.., PML4ROOT0, PML5ROOT0
    current: bool = True


@dataclass
class NormalDump:
    """A dump without host addresses.

    nested  the dump has the layout for several MMUs (a line `MMU name` before each, and a line `WALK`)
    """

    contexts: list
    mode: dict
    kvm: dict
    pages: list
    walk: str = ""
    nested: bool = False

    def text(self):
        """The text of a file in golden `spn/`."""
        out = []
        for context in self.contexts:
            if self.nested:
                out.append(f"MMU {context.name}{' current' if context.current else ''}")
            tail = "" if self.nested else f" mmu {context.name}"
            out.append(f"ROOT hpa {context.root} pgd {context.pgd:x} cpu_role {context.cpu_role:x} "
                       f"root_role {context.root_role:x}{tail}")
            out += [f"PREV{i} hpa {root} pgd {pgd:x}" for i, (root, pgd) in enumerate(context.prev)]
            out += [f"{name} {value}" for name, value in context.tables]
        if self.walk:
            out.append(f"WALK {self.walk}")
        out.append("MODE " + " ".join(f"{name} {value:x}" for name, value in self.mode.items()))
        out.append("KVM " + " ".join(f"{name} {value}" for name, value in self.kvm.items()))
        for page in self.pages:
            out.append(f"{page.kind} gfn {page.gfn:x} role {page.role:x} unsync {page.unsync} gen {page.gen} "
                       f"root_count {page.root_count} unsync_children {page.unsync_children} wflood {page.wflood} "
                       f"parents {page.parents} n {len(page.sptes)}")
            if page.sptes:
                out.append("".join(f" {index:x}:{text}" for index, text in sorted(page.sptes.items())))
        return "\n".join(out) + "\n"


# -- our side

@dataclass
class Root:
    """A root of ours: hpa in bytes (-1 none), pgd as the kernel prints it."""

    hpa: int = -1
    pgd: int = -1


@dataclass
class ShadowPage:
    """A shadow page of ours, in host terms.

    frame    host frame of its table, by which other sptes and roots point to it
    role     role word in the layout that the StateDump names
    parents  0, 1 or "many"
    sptes    index -> value, signed or unsigned; entries equal to `nonpresent` or 0 may be left in
    """

    gfn: int
    role: int
    frame: int
    unsync: int = 0
    gen: int = 0
    root_count: int = 0
    unsync_children: int = 0
    write_flooding: int = 0
    parents: object = 0
    sptes: dict = field(default_factory=dict)


@dataclass
class MmuState:
    """One struct kvm_mmu of ours.

    root, prev     current root and cached roots
    cpu_role, ext  base word and extended word of mmu->cpu_role; root_role  its root_role
    tables         entries of its special roots: (name as in the dump, value)
    current        vcpu->arch.mmu points to it
    """

    root: Root
    prev: list
    cpu_role: int
    ext: int
    root_role: int
    tables: list = field(default_factory=list)
    name: str = "root_mmu"
    current: bool = True


@dataclass
class StateDump:
    """Everything that a recorded dump has, as integers of the running model.

    contexts       the MMUs of the vCPU (`MmuState`)
    registers      guest registers as the line MODE names them
    gen, n_used, n_max, indirect   of kvm->arch
    pages          shadow pages in the order of active_mmu_pages
    guest_frames   pfn -> gfn of guest memory
    tdp_pages      tables of the TDP MMU, depth first from each root
    walk           (name of walk_mmu, cpu_role and ext of nested_mmu), or None in the layout for a single MMU
    nonpresent     value of an empty spte besides 0
    kernel         layout of the role words: None is ours (`mmu.roles`), else a kernel's
    """

    contexts: list
    registers: dict
    gen: int
    n_used: int
    n_max: int
    indirect: int
    pages: list
    guest_frames: dict
    tdp_pages: list = field(default_factory=list)
    walk: tuple | None = None
    nonpresent: int = 0
    kernel: str | None = None

    def normal(self, kernel):
        """`NormalDump` with the role words of `kernel`."""
        frames = {}
        words = {}

        def word(role):
            if role not in words:
                words[role] = role if self.kernel else layouts.role_to_kernel(role, kernel)
            return words[role]

        def cpu_role(base, ext):
            return word(base) | (ext if self.kernel else layouts.ext_to_kernel(ext, kernel, base)) << 32

        for page in (*self.pages, *self.tdp_pages):
            frames[page.frame] = f"P{page.gfn:x}/{word(page.role):x}"
        name = _frame_namer(frames, self.guest_frames)
        empty = {0, self.nonpresent & _U64}

        def context(mmu):
            return Context(
                root=_root_text(mmu.root.hpa, frames), pgd=mmu.root.pgd & _U64,
                cpu_role=cpu_role(mmu.cpu_role, mmu.ext), root_role=word(mmu.root_role),
                prev=[(_root_text(r.hpa, frames), r.pgd & _U64) for r in mmu.prev],
                tables=[(label, spte_text(value, name)) for label, value in mmu.tables], name=mmu.name,
                current=mmu.current)

        def listed(page, kind):
            return Page(page.gfn, word(page.role), page.unsync, page.gen, page.root_count, page.unsync_children,
                        page.write_flooding, str(page.parents),
                        {i: spte_text(v, name) for i, v in page.sptes.items() if v & _U64 not in empty}, kind)

        walk = f"{self.walk[0]} nested_mmu cpu_role {cpu_role(*self.walk[1:]):x}" if self.walk else ""
        return NormalDump([context(mmu) for mmu in self.contexts],
                          {key: value & _U64 for key, value in self.registers.items()},
                          {"gen": self.gen, "n_used": self.n_used, "n_max": self.n_max, "indirect": self.indirect},
                          [listed(page, "SP") for page in self.pages] + [listed(page, "TSP") for page in self.tdp_pages],
                          walk, self.walk is not None)


def _frame_namer(shadow, guest):
    def name(pfn):
        text = shadow.get(pfn)
        if text is None:
            gfn = guest.get(pfn)
            text = "?" if gfn is None else f"G{gfn:x}"
        return text
    return name


def _root_text(hpa, shadow):
    hpa &= _U64
    if hpa == INVALID_HPA:
        return "-"
    return shadow.get(hpa >> 12) or (SPECIAL_ROOT if hpa else "0")


# -- reading

_ROOT = re.compile(r"ROOT hpa (\S+) pgd (\w+) cpu_role (\w+) root_role (\w+)(?: mmu (\w+))?$")
_PREV = re.compile(r"PREV\d hpa (\S+) pgd (\w+)$")
_TABLE = re.compile(r"((?:PAE|PML4|PML5)ROOT\d*) (\S+)$")
_PAGE = re.compile(r"(T?SP) (?:spt (\w+) )?gfn (\w+) role (\w+) unsync (\d+) gen (\d+) root_count (-?\d+) "
                   r"unsync_children (\d+) wflood (\d+) parents (\w+) n (\d+)$")


def parse(text, where="dump"):
    """`NormalDump` of a file in golden `spn/`.  TraceError names the line that is not understood."""
    return _parse(text, where, lambda hpa: hpa, lambda value: value)


def parse_raw(text, guest_frames, where="dump"):
    """`NormalDump` of a raw dump (`sp_NNN_markK.txt`), host addresses replaced.

    guest_frames  pfn -> gfn (`normalise.read_frames`)
    """
    shadow = {}
    for match in re.finditer(r"^T?SP spt (\w+) gfn (\w+) role (\w+)", text, re.MULTILINE):
        shadow[int(match[1], 16) >> 12] = f"P{match[2]}/{match[3]}"
    name = _frame_namer(shadow, guest_frames)

    def spte(value):
        number = int(value, 16)
        return None if number == NONPRESENT else spte_text(number, name)

    return _parse(text, where, lambda hpa: _root_text(int(hpa, 16), shadow), spte)


def _parse(text, where, root_text, value_text):
    contexts, pages, mode, kvm, walk = [], [], {}, {}, ""
    nested = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            word = line.split(" ", 1)[0]
            if word == "":
                if not pages:
                    raise ValueError("entries before any page")
                for part in line.split():
                    index, value = part.split(":")
                    value = value_text(value)
                    if value is not None:
                        pages[-1].sptes[int(index, 16)] = value
            elif word in ("SP", "TSP"):
                m = _PAGE.match(line)
                pages.append(Page(int(m[3], 16), int(m[4], 16), *map(int, m.group(5, 6, 7, 8, 9)), m[10], {}, m[1]))
            elif word == "MMU":
                nested = True
                parts = line.split()
                contexts.append(Context(name=parts[1], current="current" in parts[2:]))
            elif word == "ROOT":
                m = _ROOT.match(line)
                if not nested:
                    contexts.append(Context(name=m[5] or "root_mmu"))
                context = contexts[-1]
                context.root, context.pgd = root_text(m[1]), int(m[2], 16)
                context.cpu_role, context.root_role = int(m[3], 16), int(m[4], 16)
            elif word.startswith("PREV"):
                m = _PREV.match(line)
                contexts[-1].prev.append((root_text(m[1]), int(m[2], 16)))
            elif "ROOT" in word:
                m = _TABLE.match(line)
                contexts[-1].tables.append((m[1], value_text(m[2]) or m[2]))
            elif word == "WALK":
                walk = line[5:]
            elif word == "MODE":
                mode = _pairs(line, 16)
            elif word == "KVM":
                kvm = _pairs(line, 10)
            else:
                raise ValueError("unknown line")
        except (ValueError, TypeError, IndexError):
            raise TraceError(f"line {number} is not of a shadow page dump: {line[:60]!r}", where) from None
    if not contexts or not kvm:
        raise TraceError("not a shadow page dump (no ROOT or KVM line)", where)
    return NormalDump(contexts, mode, kvm, pages, walk, nested)


def _pairs(line, base):
    words = line.split()[1:]
    return {words[i]: int(words[i + 1], base) for i in range(0, len(words), 2)}


# -- comparing

def page_name(page, kernel=None):
    """A page for people: `gfn 13 level 1 (role 3701)`."""
    where = f"gfn {page.gfn:x} level {page.role & 15} (role {page.role:x})"
    return where if page.kind == "SP" else f"TDP table {where}"


def difference(theirs, ours, kernel="6.12"):
    """The first difference of two `NormalDump`s in words, or None if they are equal.

    theirs is called "kernel", ours "model".  kernel gives the role layout for the words.
    """
    found = _context_difference(theirs, ours, kernel)
    if found:
        return found
    for name in theirs.mode | ours.mode:
        a, b = theirs.mode.get(name), ours.mode.get(name)
        if a != b:
            return f"guest register {name}: kernel {_hex(a)}, model {_hex(b)}"
    found = _list_difference(theirs.pages, ours.pages, kernel)
    if found:
        return found
    for name in theirs.kvm | ours.kvm:
        a, b = theirs.kvm.get(name), ours.kvm.get(name)
        if a != b:
            return f"{_KVM_WORDS.get(name, name)}: kernel {a}, model {b}"
    if theirs.walk != ours.walk:
        return f"walk MMU: kernel {theirs.walk!r}, model {ours.walk!r}"
    return None


_KVM_WORDS = {"gen": "mmu_valid_gen", "n_used": "used shadow pages", "n_max": "limit of shadow pages",
              "indirect": "indirect_shadow_pages"}
_PAGE_WORDS = {"unsync": "unsync flag", "gen": "generation", "root_count": "root_count",
               "unsync_children": "number of unsync children", "wflood": "write flooding count",
               "parents": "parent sptes"}


def _hex(value):
    return "none" if value is None else f"{value:x}"


def _context_difference(theirs, ours, kernel):
    if len(theirs.contexts) != len(ours.contexts):
        return f"number of MMUs: kernel {len(theirs.contexts)}, model {len(ours.contexts)}"
    for a, b in zip(theirs.contexts, ours.contexts, strict=True):
        if (a.name, a.current) != (b.name, b.current):
            return (f"MMU in use: kernel {a.name}{' current' if a.current else ''}, "
                    f"model {b.name}{' current' if b.current else ''}")
        if (a.root, a.pgd) != (b.root, b.pgd):
            return (f"{a.name}: current root: kernel {a.root} for pgd {a.pgd:x}, model {b.root} for pgd {b.pgd:x}")
        if a.cpu_role != b.cpu_role:
            low, high = 0xFFFFFFFF, 32
            words = _role_words(a.cpu_role & low, b.cpu_role & low, kernel)
            if not words:
                words = f"extended role {a.cpu_role >> high:x} and {b.cpu_role >> high:x}"
            return f"{a.name}: cpu_role: kernel {a.cpu_role:x}, model {b.cpu_role:x} ({words})"
        if a.root_role != b.root_role:
            return (f"{a.name}: root_role: kernel {a.root_role:x}, model {b.root_role:x} "
                    f"({_role_words(a.root_role, b.root_role, kernel)})")
        for i, (x, y) in enumerate(_longest(a.prev, b.prev)):
            if x != y:
                x, y = (f"{v[0]} for pgd {v[1]:x}" if v else "none" for v in (x, y))
                return f"{a.name}: cached root {i}: kernel {x}, model {y}"
        for x, y in _longest(a.tables, b.tables):
            if x != y:
                name = (x or y)[0]
                return f"{a.name}: {name}: kernel {x[1] if x else 'none'}, model {y[1] if y else 'none'}"
    return None


def _longest(a, b):
    n = max(len(a), len(b))
    return zip(a + [None] * (n - len(a)), b + [None] * (n - len(b)), strict=True)


def _role_words(a, b, kernel):
    """Which fields of two role words differ."""
    layout = layouts.layout_of(kernel)
    x, y = layout.unpack(a), layout.unpack(b)
    return ", ".join(f"{name} {x[name]} and {y[name]}" for name in x if x[name] != y[name])


def _list_difference(theirs, ours, kernel):
    keys_theirs, keys_ours = ([(p.kind, p.gfn, p.role) for p in pages] for pages in (theirs, ours))
    for i, (a, b) in enumerate(_longest(theirs, ours)):
        if a is None or b is None or keys_theirs[i] != keys_ours[i]:
            where = f"shadow page {i + 1} of the list ({len(theirs)} in the kernel, {len(ours)} in the model)"
            if a is None:
                return f"{where}: the model has one more, {page_name(b)}"
            if b is None:
                return f"{where}: the model lacks {page_name(a)}"
            text = f"{where}: kernel {page_name(a)}, model {page_name(b)}"
            if (a.kind, a.gfn) == (b.kind, b.gfn):
                text += f"; roles differ in {_role_words(a.role, b.role, kernel)}"
            elif keys_ours[i] not in keys_theirs:
                text += "; the kernel has no such page"
            elif keys_theirs[i] not in keys_ours:
                text += "; the model does not have the kernel's"
            else:
                text += "; both have both, the order differs"
            return text
        for name, words in _PAGE_WORDS.items():
            x, y = getattr(a, name), getattr(b, name)
            if x != y:
                return f"{page_name(a)}: {words}: kernel {x}, model {y}"
        if a.sptes != b.sptes:
            index = min(i for i in a.sptes.keys() | b.sptes.keys() if a.sptes.get(i) != b.sptes.get(i))
            return (f"{page_name(a)}: entry {index:x}: kernel {spte_words(a.sptes.get(index))}, "
                    f"model {spte_words(b.sptes.get(index))}")
    return None


#: Bits of an spte with names (AMD and Intel paging entries; 9 and 10 are KVM's).
_SPTE_BITS = ((1, "writable"), (2, "user"), (3, "write-through"), (4, "uncached"), (5, "accessed"), (6, "dirty"),
              (7, "large"), (9, "host-writable"), (10, "mmu-writable"), (11, "mmu-present"))


def spte_words(text):
    """A normal spte in words: `G201|a25` is "G201|a25 (guest page 201: user, accessed, host-writable, ...)"."""
    if text is None:
        return "empty"
    if "|" not in text:
        return text
    frame, low, *rest = text.split("|")
    if frame.startswith("P"):
        gfn, role = frame[1:].split("/")
        target = f"table of gfn {gfn} role {role}"
    else:
        target = {"G": f"guest page {frame[1:]}", "S": "a shadow table"}.get(frame[0], "an unknown frame")
    value = int(low, 16)
    words = [name for bit, name in _SPTE_BITS if value >> bit & 1] + ["no-execute"] * ("NX" in rest)
    return f"{text} ({target}: {', '.join(words) or 'read-only'})"
