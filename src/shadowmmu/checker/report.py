# SPDX-License-Identifier: GPL-2.0-or-later
"""What `shadowmmu check` prints: the progress line, the table of what was searched, JSON."""

import json
import sys
import time

from ..state import PATCH
from . import coverage, tasks

ROW = "{:<10}{:>6}{:>15}{:>13}{:>7}  {}"


class Progress:
    """One line on a terminal; nothing elsewhere."""

    def __init__(self, stream):
        self.stream, self.last, self.shown = stream, 0.0, False

    def show(self, what, operations, states, depth, covered, seconds, limit=0):
        """How far it is; at most twice a second."""
        now = time.monotonic()
        if now - self.last < 0.5 or not self.stream.isatty():
            return
        self.last, self.shown = now, True
        rate = operations / seconds if seconds else 0
        clock = f"{seconds:.0f} of {limit:.0f} s" if limit else f"{seconds:.0f} s"
        self.stream.write(f"\r{what}: {operations:,} operations, {rate:,.0f}/s, {states:,} states, depth {depth}, "
                          f"{covered.bit_count()} of {len(coverage.NAMES)} marks, {clock}\x1b[K")
        self.stream.flush()

    def clear(self):
        """Take the line away."""
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = False


def _bound(settings, t):
    if t.exhausted and not settings.depth:
        return "every state there is"
    depth = settings.depth if t.exhausted else t.complete_depth
    return f"every sequence of {depth}" if depth > 0 else ""


def document(settings, totals, findings, seconds, operations_now=None):
    """The result as plain data."""
    operations = sum(t.operations for t in totals)
    now = operations if operations_now is None else operations_now
    return {"rules": settings.rules, "patch": PATCH.path or None, "patch_hash": tasks.patch_key() or None,
            "source": tasks.source_key(), "seed": settings.seed, "length": settings.length,
            "exhaustive_depth": settings.depth or None, "aside": list(settings.aside), "operations": operations,
            "operations_per_second": round(now / seconds) if seconds else 0, "states": sum(t.states for t in totals),
            "depth": max((t.depth for t in totals), default=0), "seconds": round(seconds, 2),
            "skipped": sum(t.skipped for t in totals), "abandoned": sum(t.abandoned for t in totals),
            "coverage": covered(totals), "machines": [vars(t) for t in totals],
            "exhausted": bool(settings.depth) and len(totals) == len(settings.pairs) and all(t.exhausted for t in totals),
            "findings": [f.as_dict() if hasattr(f, "as_dict") else f for f in findings]}


def covered(totals):
    """Which marks were reached, over all machines."""
    found = 0
    for t in totals:
        found |= t.covered
    missing = coverage.missing(found)
    return {"reached": len(coverage.NAMES) - len(missing), "of": len(coverage.NAMES), "not_reached": missing}


def _coverage(totals):
    c = covered(totals)
    text = f"coverage: {c['reached']} of {c['of']} marks"
    from .finding import wrap
    return wrap(text + (f"; not reached: {', '.join(c['not_reached'])}" if c["not_reached"] and c["reached"] else ""))


def table(settings, totals):
    """What was searched, a line for each machine."""
    lines = [ROW.format("machine", "vcpus", "operations", "states", "depth", "").rstrip()]
    for t in totals:
        lines.append(ROW.format(t.machine, t.vcpus, f"{t.operations:,}", f"{t.states:,}", t.depth, _bound(settings, t)).rstrip())
    return lines


def set_aside(settings):
    """Which known deviations were not looked for."""
    from .finding import wrap
    if not settings.aside:
        return ["nothing was set aside"]
    return wrap(f"set aside (docs/findings.md; --with NAME looks for one): {', '.join(settings.aside)}")


def result(settings, totals, findings, seconds, as_json, out, operations_now=None, title=None):
    """Print the end of a search."""
    if as_json:
        print(json.dumps(document(settings, totals, findings, seconds, operations_now), indent=2), file=out)
        return
    for f in findings:
        print((f.text() if hasattr(f, "text") else f["text"]) + "\n", file=out)
    how = title or (f"exhaustive to depth {settings.depth}" if settings.depth
                    else f"exhaustive, and random walks of {settings.length} operations, seed {settings.seed}")
    patch = f", patch {PATCH.path}" if PATCH.text else ""
    print(f"{settings.rules}{patch}, {how}", file=out)
    print(*table(settings, totals), sep="\n", file=out)
    operations = sum(t.operations for t in totals)
    now = operations if operations_now is None else operations_now
    states = sum(t.states for t in totals)
    print(f"{operations:,} operations, {states:,} states, {now / seconds if seconds else 0:,.0f} operations/s, "
          f"{seconds:.1f} s", file=out)
    if not title:
        print(*_coverage(totals), sep="\n", file=out)
    print(*set_aside(settings), sep="\n", file=out)
    print(f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" if findings else "nothing found", file=out)


def lost(what, found, as_json, out=None):
    """Print the finding that ended the process of a search or a replay; exit code 1.  How much was searched went with it."""
    out = out or sys.stdout
    if as_json:
        print(json.dumps({"patch": PATCH.path, "patch_hash": tasks.patch_key(), "source": tasks.source_key(),
                          "findings": [found.as_dict()]}, indent=2), file=out)
        return 1
    from .finding import wrap
    print(found.text() + "\n", file=out)
    print(*wrap(f"{what} ended with its process, patch {PATCH.path}; the counts are lost, and a state to resume is that of "
                f"the last time it was written"), sep="\n", file=out)
    print("1 finding", file=out)
    return 1
