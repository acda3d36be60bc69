# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded run of the real kernel against the same run here: events, states, values, memory, counters.

    RUN_DIR (kernel)   RunResult (model)
         |    rules of `normalise`   |
         +-------------+-------------+
                    Report: totals, equal, first difference in words

Everything is compared even after a difference, so the figures say how much is equal, not only where it ends.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest

from . import align, dump
from .normalise import fold_pointer
from .runs import RecordedRun, value_lines

#: Counters that speak of the recording host, not of the MMU or of the guest (rule host-counters).
HOST_COUNTERS = frozenset(("irq_exits", "irq_injections", "host_state_reload", "fpu_reload", "req_event",
                           "preemption_reported", "preemption_other", "halt_wait_hist", "nmi_injections",
                           "signal_exits", "notify_window_exits", "guest_mode", "blocking"))
RF = 1 << 16
#: Equal lines shown before a divergence, and lines of each side after it.
CONTEXT_LINES = 4


@dataclass
class RunResult:
    """What a run here produced.

    events   normal event lines (`text.Formatter.normal`)
    dumps    [(tag, StateDump or NormalDump)] at every MARK and at the end
    values   lines as in result.txt; those that are not values are ignored
    memory   final guest memory, or None
    stats    {"vm": {name: value}, "vcpu": {name: value}}
    registers  final registers by name (rip, rax, ..., cr0, cr3), for whom they are known
    """

    events: list
    dumps: list = field(default_factory=list)
    values: list = field(default_factory=list)
    memory: bytes | None = None
    stats: dict = field(default_factory=dict)
    registers: dict = field(default_factory=dict)


@dataclass
class Report:
    """Figures of a comparison.  `differences` has one text per kind that differs; the first is the earliest check.

    `memory_equal` and `counters_equal` are None when one side has none to compare.
    """

    guest: str
    kernel: str
    mode: str = ""
    events_total: int = 0
    events_equal: int = 0
    states_total: int = 0
    states_equal: int = 0
    values_total: int = 0
    values_equal: bool = False
    memory_equal: bool | None = None
    registers_equal: bool | None = None
    counters_equal: bool | None = None
    normalised: dict = field(default_factory=dict)
    first_difference: str | None = None
    differences: dict = field(default_factory=dict)

    @property
    def equal(self):
        """Everything that could be compared is equal."""
        return not self.differences

    def to_dict(self):
        """For JSON."""
        return asdict(self)


def compare_run(run_dir, result):
    """Compare a recorded run with `result` (a RunResult).  Returns a Report; TraceError if RUN_DIR is unreadable."""
    run = run_dir if isinstance(run_dir, RecordedRun) else RecordedRun(run_dir)
    report = Report(run.guest, run.kernel, run.mode)
    touched = Counter()
    lines, events_touched = run.events()
    touched.update(events_touched)
    compare_events(lines, result.events, report, touched)
    _compare_values(run.values(), value_lines(result.values), report)
    _compare_states(run, result, report, touched)
    _compare_memory(run.memory(), result.memory, report)
    _compare_registers(run.registers(), result.registers, report, touched)
    _compare_counters(run.stats(), result.stats, report, touched)
    report.normalised = {name: n for name, n in sorted(touched.items()) if n}
    report.first_difference = next(iter(report.differences.values()), None)
    return report


def compare_events(theirs, ours, report, touched=None):
    """Fill the event figures of `report` from two lists of normal lines."""
    theirs, folded = _fold(theirs)
    ours, _ = _fold(ours)
    if touched is not None and folded:
        touched["spte-pointer"] += folded
    report.events_total = len(theirs)
    if theirs == ours:
        report.events_equal = len(theirs)
        return
    report.events_equal = align.equal_items(theirs, ours)
    report.differences["events"] = explain_events(theirs, ours)


def _fold(lines):
    out = [fold_pointer(line) for line in lines]
    return out, sum(a != b for a, b in zip(lines, out, strict=True))


def explain_events(theirs, ours):
    """The first divergence of two lists of lines: context, both sides, and what differs in words."""
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    out = [f"events differ from line {at + 1} on:"]
    out += [f"      {line}" for line in theirs[max(0, at - CONTEXT_LINES):at]]
    for name, lines in (("kernel", theirs), ("model", ours)):
        shown = lines[at:at + CONTEXT_LINES] or ["(end of the log)"]
        out += [f"{name if i == 0 else '':<7}> {line}" for i, line in enumerate(shown)]
    a = theirs[at] if at < len(theirs) else None
    b = ours[at] if at < len(ours) else None
    out.append(line_words(a, b))
    return "\n".join(out)


def line_words(a, b, names=("the kernel", "the model")):
    """How two event lines differ, in one sentence.  None stands for the end of a log."""
    if a is None:
        return f"{names[0]} has no more events, {names[1]} goes on with {b.split(':')[0]}"
    if b is None:
        return f"{names[1]} has no more events, {names[0]} goes on with {a.split(':')[0]}"
    name_a, _, body_a = a.partition(": ")
    name_b, _, body_b = b.partition(": ")
    if name_a != name_b:
        return f"another event: {names[0]} {name_a}, {names[1]} {name_b}"
    words_a, words_b = body_a.split(), body_b.split()
    parts = []
    for i, (x, y) in enumerate(zip_longest(words_a, words_b, fillvalue="nothing")):
        if x != y:
            label = words_a[i - 1].rstrip(",:") if 0 < i < len(words_a) and words_a[:i][-1:] == words_b[:i][-1:] else ""
            parts.append(f"{label} {x} in {names[0]}, {y} in {names[1]}".strip())
    return f"{name_a}: " + ("; ".join(parts[:6]) or "other spacing")


def _compare_values(theirs, ours, report):
    report.values_total = len(theirs)
    report.values_equal = theirs == ours
    if not report.values_equal:
        at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
                  min(len(theirs), len(ours)))
        before = f", after {theirs[at - 1]!r}" if 0 < at <= len(theirs) else ""
        a, b = (repr(v[at]) if at < len(v) else "nothing" for v in (theirs, ours))
        report.differences["values"] = f"value {at + 1}{before}: kernel {a}, model {b}"


def _compare_states(run, result, report, touched):
    recorded = run.dumps()
    report.states_total = len(recorded)
    first = None
    for number, (tag, theirs) in enumerate(recorded):
        if number >= len(result.dumps):
            found = "the model made no dump"
        else:
            our_tag, ours = result.dumps[number]
            if isinstance(ours, dump.StateDump):
                ours = ours.normal(run.kernel)
            if run.kernel == "7.2":
                touched["n-used-7.2"] += theirs.kvm.get("n_used", 0) != ours.kvm.get("n_used", 0)
                ours = replace(ours, kvm=ours.kvm | {"n_used": 0})
                theirs = replace(theirs, kvm=theirs.kvm | {"n_used": 0})
            touched["pae-root-accessed"] += _fold_pae_roots(theirs, ours)
            found = (f"the model's dump is of {our_tag}" if our_tag != tag
                     else dump.difference(theirs, ours, run.kernel))
        if found is None:
            report.states_equal += 1
        elif first is None:
            first = f"state {number + 1} ({tag}): {found}"
    if first:
        report.differences["states"] = first


def _fold_pae_roots(theirs, ours):
    """Clear bit 5 of the pae_root entries on both sides; number of entries that differed only there."""
    changed = 0
    for a, b in zip(theirs.contexts, ours.contexts, strict=False):
        for i, ((name, value), (other_name, other)) in enumerate(zip(a.tables, b.tables, strict=False)):
            if (name == other_name and name.startswith("PAEROOT")
                    and _without_accessed(value) == _without_accessed(other)):
                changed += value != other
                a.tables[i] = b.tables[i] = (name, _without_accessed(value))
    return changed


def _without_accessed(text):
    frame, bar, bits = text.partition("|")
    if not bar:
        return text
    low, bar2, rest = bits.partition("|")
    return f"{frame}|{int(low, 16) & ~0x20:x}{bar2}{rest}"


def _compare_memory(theirs, ours, report):
    if theirs is None or ours is None:
        return
    report.memory_equal = theirs == bytes(ours)
    if not report.memory_equal:
        if len(theirs) != len(ours):
            text = f"memory: kernel {len(theirs)} bytes, model {len(ours)}"
        else:
            at = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b) & ~7
            different = sum(a != b for a, b in zip(theirs, ours, strict=True))
            a, b = (int.from_bytes(side[at:at + 8], "little") for side in (theirs, ours))
            text = f"memory at {at:x}: kernel {a:016x}, model {b:016x} ({different} bytes differ in all)"
        report.differences["memory"] = text


def _compare_registers(theirs, ours, report, touched):
    names = [name for name in theirs if name in ours]
    if not names:
        return
    if "rflags" in names:
        touched["rflags-rf"] += (theirs["rflags"] ^ ours["rflags"]) & RF != 0
        theirs, ours = ({**side, "rflags": side["rflags"] & ~RF} for side in (theirs, ours))
    wrong = [name for name in names if theirs[name] != ours[name] & (1 << 64) - 1]
    report.registers_equal = not wrong
    if wrong:
        report.differences["registers"] = "; ".join(
            f"{name}: kernel {theirs[name]:x}, model {ours[name] & (1 << 64) - 1:x}" for name in wrong)


def _compare_counters(theirs, ours, report, touched):
    """Counters that either side has; a counter that the model does not keep is a difference unless it is the host's."""
    if not any(ours.values()):
        return
    wrong = []
    for scope in ("vm", "vcpu"):
        a, b = dict(theirs.get(scope, {})), dict(ours.get(scope, {}))
        touched["exits-minus-interrupts"] += bool(a.get("irq_exits"))
        for side in (a, b):
            if "exits" in side:
                side["exits"] -= side.get("irq_exits", 0)
        for name in sorted(a.keys() | b.keys()):
            if name in HOST_COUNTERS:
                touched["host-counters"] += 1
            elif a.get(name, 0) != b.get(name, 0):
                wrong.append(f"{scope} {name}: kernel {a.get(name, 0)}, model {b.get(name, 0)}")
    report.counters_equal = not wrong
    if wrong:
        report.differences["counters"] = "; ".join(wrong)
