# SPDX-License-Identifier: GPL-2.0-or-later
"""The first difference of two traces, whatever files they came from.

    A  vmm-590 [000] ...1. 23.50: kvm_mmu_set_spte: gfn 8 spte 2b36a25 ... at 84e8040   --+
    B  qemu-9 [003]  7.93: kvm_mmu_set_spte:     gfn 8 spte 9505a25 ... at 91f3040      --+--> equal: G8|a25, idx 8

Times, tasks, CPUs and host frames are left out of the comparison; a frame gets the name of the guest page that the
trace itself says it holds (kvm_mmu_spte_requested and kvm_mmu_set_spte carry both).
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from . import align
from .compare import line_words
from .normalise import Normaliser, fold_pointer
from .records import SP_EVENTS

#: Records of each side that are read after the first difference, to say how much is equal after it.
LOOK_AHEAD = 50000
CONTEXT = 4


class Comparable:
    """Texts of records without what depends on the host.

    events  set of names to keep, or None for all that this package knows
    fold    write 7.x texts as 6.x: three access letters, no `access` field
    """

    def __init__(self, events=None, fold=False):
        self.events = events
        self.fold = fold
        self.frames = {}
        self.normaliser = Normaliser(self.frames)

    def lines(self, records):
        """Yield (line number, text)."""
        for record in records:
            if self.events is not None and record.event not in self.events:
                continue
            text = record.text
            if record.event in ("kvm_mmu_spte_requested", "kvm_mmu_set_spte"):
                self._learn(record)
            text = self.normaliser.event(text)
            if text is None:
                continue
            text = fold_pointer(text).rstrip()
            yield record.line, _fold(record.event, text) if self.fold else text

    def _learn(self, record):
        fields = record.fields
        if "pfn" in fields:
            self.frames[fields["pfn"]] = fields["gfn"]
        elif fields.get("spte", 0) & 1:
            self.frames[fields["spte"] >> 12 & (1 << 39) - 1] = fields["gfn"]


def _fold(event, text):
    """A 7.x text in 6.x words."""
    if event in SP_EVENTS:
        words = text.split(" ")
        return " ".join(word[1:] if len(word) == 4 and set(word) <= set("rwux-") else word for word in words)
    if event == "kvm_mmu_spte_requested":
        return text.partition(" access ")[0]
    return text


@dataclass
class Difference:
    """What `diff` found.

    equal      lines equal before the first difference (all of them if there is none)
    line_a, line_b   where it is in each file, None at the end of a file
    words      both sides in words;  before, a, b  lines around it
    later_equal, later_a, later_b  of the next `LOOK_AHEAD` lines: how many are equal again, how many each side has
    """

    equal: int = 0
    different: bool = False
    line_a: int | None = None
    line_b: int | None = None
    words: str = ""
    before: list = field(default_factory=list)
    a: list = field(default_factory=list)
    b: list = field(default_factory=list)
    later_equal: int = 0
    later_a: int = 0
    later_b: int = 0

    def text(self, names=("A", "B")):
        """For people."""
        if not self.different:
            return f"{self.equal} events, no difference"
        out = [f"{self.equal} events are equal, then line {self.line_a or 'end'} of {names[0]} and "
               f"line {self.line_b or 'end'} of {names[1]} differ:"]
        out += [f"     {line}" for line in self.before]
        for mark, lines in (("A", self.a), ("B", self.b)):
            out += [f" {mark} > {line}" for line in lines or ["(end of the trace)"]]
        out.append(self.words)
        if self.later_a or self.later_b:
            out.append(f"of the next {self.later_a} and {self.later_b} events {self.later_equal} are equal again")
        return "\n".join(out)


def diff(records_a, records_b, events=None, fold=False):
    """Compare two iterables of Records: a `Difference`.  Memory does not grow with the traces."""
    a = iter(Comparable(events, fold).lines(records_a))
    b = iter(Comparable(events, fold).lines(records_b))
    result = Difference()
    before = deque(maxlen=CONTEXT)
    end = (None, None)
    while True:
        (line_a, x), (line_b, y) = next(a, end), next(b, end)
        if x == y:
            if x is None:
                return result
            result.equal += 1
            before.append(x)
            continue
        break
    rest_a = [x] * (x is not None) + [text for _line, text in islice(a, LOOK_AHEAD)]
    rest_b = [y] * (y is not None) + [text for _line, text in islice(b, LOOK_AHEAD)]
    result.different = True
    result.line_a, result.line_b = line_a, line_b
    result.words = line_words(x, y, ("A", "B"))
    result.before, result.a, result.b = list(before), rest_a[:CONTEXT], rest_b[:CONTEXT]
    result.later_a, result.later_b = len(rest_a), len(rest_b)
    result.later_equal = align.equal_items(rest_a, rest_b)
    return result
