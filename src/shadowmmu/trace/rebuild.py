# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow pages at any line of a trace, rebuilt from what the kernel said about them.

    get_page new      a page is born                      prepare_zap_page   it dies (root 0) or becomes invalid
    get_page existing it was found again                  unsync, sync       its unsync flag
    set_spte          an entry of the table at a host frame

What the tracepoints do not say is inferred and marked so: that a page is a root (found outside a fault, or of level
4 and 5), which root is current (switches to a cached root leave no trace at all), and which host frame is a page's
table (from the first entry written after the page was found).

Text shows only a part of the role, so two pages may look the same; then an event is given to the one it fits.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .records import SP_EVENTS

#: Fields that tell pages apart in text; a binary trace has the whole role word.
_VISIBLE = ("gfn", "level", "gpte_bytes", "quadrant", "direct", "access", "nx", "ad")
#: Roots that a vCPU has at once besides the current one.
CACHED_ROOTS = 3


@dataclass(eq=False)
class Page:
    """A shadow page as far as the trace tells.

    born     line of its get_page;  seen_first  how it became known: "new", or "existing" when it is older than the log
    frame    host frame of its table (inferred), or None
    """

    key: tuple
    fields: dict
    born: int
    seen_first: str
    unsync: bool = False
    invalid: bool = False
    root: bool = False
    frame: int | None = None
    touched: int = 0

    @property
    def name(self):
        """For people: `gfn 13 l1 8-byte q0 wux`."""
        f = self.fields
        return (f"gfn {f['gfn']:x} l{f['level']} {f['gpte_bytes']}-byte q{f['quadrant']}"
                f"{' direct' if f['direct'] else ''} {f['access']}")


@dataclass
class Finding:
    """Something that a correct kernel and a complete log do not show.  severity: "impossible" or "suspicious"."""

    line: int
    rule: str
    severity: str
    text: str


@dataclass
class Forest:
    """The shadow pages after the records fed so far.

    pages     key -> [Page], oldest first
    tables    host frame -> {index: spte} from set_spte
    roots     pages of the current root, newest found (inferred)
    switches  [(line, text)] of the last root switches (inferred);  findings  what does not fit
    """

    pages: dict = field(default_factory=lambda: defaultdict(list))
    tables: dict = field(default_factory=dict)
    roots: list = field(default_factory=list)
    switches: list = field(default_factory=list)
    findings: list = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    line: int = 0
    unplaced: int = 0

    def __post_init__(self):
        self._in_fault = {}
        self._found = {}
        self._zapped_unsync = []
        self._dead = set()
        self._by_frame = {}
        self._first_sp = None
        self._root_group_open = {}
        self._invalid_bit = 0
        self._tdp = False

    # -- reading

    def feed(self, record):
        """Take in one Record."""
        self.line = record.line
        event = record.event
        if event in SP_EVENTS:
            fields = record.fields
            self.counts[event] += 1
            if "gfn" not in fields or ("created" not in fields and event == "kvm_mmu_get_page"):
                self.unplaced += 1                    # trace-cmd's plugin leaves the gfn out, damage the rest
                return
            self._first_sp = self._first_sp or fields.get("created", 0)
            self._invalid_bit = record.roles.layout.pack({"invalid": 1, "has_4_byte_gpte": 1}) & ~(1 << 4)
            _ON[event](self, record, fields)
        elif event == "kvm_mmu_set_spte":
            self.counts[event] += 1
            self._set_spte(record)
        elif event == "kvm_tdp_mmu_spte_changed":
            self._tdp = True
        elif event == "kvm_page_fault":
            self._in_fault[record.pid] = True
        elif event in ("kvm_entry", "kvm_exit"):
            self._in_fault[record.pid] = False
            self._root_group_open[record.pid] = False
            self._found.pop(record.pid, None)
        elif event == "kvm_mmu_zap_all_fast":
            self.roots = []
            self._switch(record.line, "all roots dropped (kvm_mmu_zap_all_fast)")

    def alive(self):
        """All live pages, oldest first."""
        return sorted((page for pages in self.pages.values() for page in pages), key=lambda page: page.born)

    def _key(self, fields):
        if fields.get("role") is not None and "gen" in fields:
            word = fields["role"]
            return fields["gen"], fields["gfn"], word & ~self._invalid_bit if fields["invalid"] else word
        return (fields.get("gen", 0), *(fields.get(name) for name in _VISIBLE))

    def _find(self, fields, unsync=None):
        """The live page an event speaks of, or None.  With several of one look, the one whose flag fits."""
        pages = self.pages.get(self._key(fields), ())
        fitting = [page for page in pages if unsync is None or page.unsync == unsync]
        wanted = bool(fields.get("invalid"))
        for page in fitting:
            if page.invalid == wanted:
                return page
        return fitting[0] if fitting else pages[0] if pages else None

    def _note(self, line, rule, severity, text):
        self.findings.append(Finding(line, rule, severity, text))

    def _get_page(self, record, fields):
        key = self._key(fields)
        if fields["created"]:
            if self._tdp and fields["direct"] and "role" in fields:
                self.pages[key].clear()               # the TDP MMU frees its tables without an event
            twins = [page for page in self.pages[key] if not page.invalid]
            if twins and "role" in fields and "gen" in fields:
                self._note(record.line, "two-pages-one-key", "impossible",
                           f"a new page {twins[0].name}, but one with the same gfn and role lives since line "
                           f"{twins[0].born}")
            page = Page(key, fields, record.line, "new")
            self.pages[key].append(page)
        else:
            page = self._find(fields, bool(fields["unsync"]))
            if page is None:
                page = Page(key, fields, record.line, "existing", unsync=bool(fields["unsync"]))
                if key in self._dead:
                    self._note(record.line, "found-after-zap", "impossible",
                               f"{page.name} is found although it was zapped")
                self.pages[key].append(page)
            elif bool(fields["unsync"]) != page.unsync:
                self._note(record.line, "unsync-flag", "suspicious",
                           f"{page.name} is {'unsync' if fields['unsync'] else 'sync'} here, the events before say "
                           f"{'unsync' if page.unsync else 'sync'}")
                page.unsync = bool(fields["unsync"])
        page.touched = record.line
        self._dead.discard(key)
        self._found[record.pid] = page
        if fields["level"] >= 4 or not self._in_fault.get(record.pid):
            self._root_found(record, page, fields)

    def _root_found(self, record, page, fields):
        page.root = True
        if fields["level"] >= 4 and not fields["created"] and fields["root_count"] and "role" in fields:
            recent = [p for p, _line in self._recent_roots()]
            if page in recent[:CACHED_ROOTS + 1]:
                self._note(record.line, "root-should-have-hit", "suspicious",
                           f"{page.name} is looked up although a vCPU still holds it as a root (root_count "
                           f"{fields['root_count']}): the root cache should have had it, unless another PCID, vCPU "
                           "or extended role asked")
        if fields["level"] >= 4 or not self._root_group_open.get(record.pid):
            self.roots = []
        self._root_group_open[record.pid] = fields["level"] < 4
        self.roots.append(page)
        if len(self.roots) == 1:
            self._switch(record.line, f"root is {page.name}", page)

    def _recent_roots(self):
        return [(page, line) for line, _text, page in reversed(self.switches) if page is not None]

    def _switch(self, line, text, page=None):
        self.switches.append((line, text, page))
        del self.switches[:-64]

    def _unsync(self, record, fields):
        page = self._find(fields, False) or self._unknown(record, fields, "unsync")
        if page.unsync:
            self._note(record.line, "unsync-of-unsync", "impossible",
                       f"{page.name} is made unsync, but it is already unsync")
        page.unsync = True
        page.touched = record.line

    def _sync(self, record, fields):
        key = self._key(fields)
        if key in self._zapped_unsync:
            self._zapped_unsync.remove(key)           # zapping an unsync page reports its sync afterwards
            return
        page = self._find(fields, True) or self._unknown(record, fields, "sync", unsync=True)
        if not page.unsync:
            self._note(record.line, "sync-of-sync", "impossible", f"{page.name} is synced, but it is not unsync")
        page.unsync = False
        page.touched = record.line

    def _zap(self, record, fields):
        page = self._find(fields, bool(fields["unsync"]))
        if page is None:
            page = self._unknown(record, fields, "zap", unsync=bool(fields["unsync"]))
        if fields["unsync"]:
            self._zapped_unsync.append(page.key)
        page.touched = record.line
        if fields["root_count"]:
            page.invalid = True                       # lives on until its last root is put
            page.unsync = False
            return
        self.pages[page.key].remove(page)
        if not self.pages[page.key]:
            del self.pages[page.key]
            self._dead.add(page.key)
        self.tables.pop(page.frame, None)
        self._by_frame.pop(page.frame, None)

    def _unknown(self, record, fields, what, unsync=False):
        """A page that an event speaks of but that is not known."""
        key = self._key(fields)
        page = Page(key, fields, record.line, "existing", unsync=unsync)
        self.pages[key].append(page)
        if key in self._dead:
            self._note(record.line, f"{what}-of-unknown", "impossible", f"{what} of {page.name}, which was zapped")
        elif self._first_sp:
            self._note(record.line, f"{what}-of-unknown", "suspicious",
                       f"{what} of {page.name}, which the log has not shown before (it may be older than the log)")
        return page

    def _set_spte(self, record):
        fields = record.fields
        if "at" not in fields:
            return
        frame, index = fields["at"] >> 12, (fields["at"] & 0xFFF) // 8
        found = self._found.get(record.pid)
        if frame not in self._by_frame and found is not None and found.frame is None \
                and found.fields["level"] == fields["level"]:
            found.frame = frame
            self._by_frame[frame] = found
            self.tables.pop(frame, None)
        self.tables.setdefault(frame, {})[index] = fields["spte"]
        page = self._by_frame.get(frame)
        if page is not None:
            page.touched = record.line

    # -- showing

    def text(self):
        """The forest for people: roots first, then pages by level."""
        out = [f"after line {self.line}: {sum(map(len, self.pages.values()))} shadow pages"]
        if self.roots:
            out.append("current root (inferred; switches to a cached root are not traced):")
            out += [f"  {page.name}" for page in self.roots]
        for page in sorted(self.alive(), key=lambda p: (-p.fields["level"], p.fields["gfn"], p.born)):
            marks = [word for word, on in (("root?", page.root), ("unsync", page.unsync), ("invalid", page.invalid),
                                           ("older than the log", page.seen_first == "existing")) if on]
            entries = len(self.tables.get(page.frame, ()))
            if entries:
                marks.append(f"{entries} entries written (inferred)")
            out.append(f"{'  ' * (5 - min(5, page.fields['level']))}{page.name}  line {page.born}"
                       f"{'  ' + ', '.join(marks) if marks else ''}")
        if self.unplaced:
            out.append(f"{self.unplaced} lines could not be placed: trace-cmd's plugin prints no gfn there")
        return "\n".join(out)

    def to_dict(self):
        """For JSON."""
        return {"line": self.line, "unplaced": self.unplaced,
                "roots": [page.name for page in self.roots], "roots_inferred": True,
                "pages": [{**page.fields, "unsync": page.unsync, "invalid": page.invalid, "root_inferred": page.root,
                           "born": page.born, "seen_first": page.seen_first, "frame_inferred": page.frame,
                           "entries": len(self.tables.get(page.frame, ()))} for page in self.alive()],
                "root_switches_inferred": [{"line": line, "text": text} for line, text, _page in self.switches]}


_ON = {"kvm_mmu_get_page": Forest._get_page, "kvm_mmu_sync_page": Forest._sync,
       "kvm_mmu_unsync_page": Forest._unsync, "kvm_mmu_prepare_zap_page": Forest._zap}


def rebuild(reader, line=None, pid=None):
    """`Forest` of the pages after `line` (None: the end).

    reader  iterable of Records;  pid  only this thread's events
    """
    forest = Forest()
    for record in reader:
        if line is not None and record.line > line:
            break
        if pid is None or record.pid == pid:
            forest.feed(record)
    return forest
