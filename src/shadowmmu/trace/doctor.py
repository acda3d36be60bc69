# SPDX-License-Identifier: GPL-2.0-or-later
"""Transitions in a trace that the MMU cannot make, with line numbers.

    rule                  what it says
    zap-of-unknown        a page is zapped that was zapped before, or that the log never showed
    sync-of-sync ...      the unsync flag against the events
    two-pages-one-key     a page is created while one with the same gfn and role lives
    found-after-zap       a page is found that was zapped
    root-should-have-hit  a root is looked up although a vCPU still holds it

The rules themselves live in `rebuild.Forest`, which follows every page; here they are run over a whole log and
weighed: after lost events or in a log that begins late, "impossible" is only "suspicious".
"""

from dataclasses import asdict, dataclass, field

from .rebuild import Forest

#: Findings that are printed in full; the rest is counted.
LIMIT = 1000


@dataclass
class Diagnosis:
    """findings: `rebuild.Finding`s in order of lines; more: how many were not kept; records: events looked at."""

    records: int = 0
    pages: int = 0
    unplaced: int = 0
    findings: list = field(default_factory=list)
    more: int = 0
    unparsed: int = 0
    notes: list = field(default_factory=list)
    stopped: str | None = None

    @property
    def healthy(self):
        """Nothing impossible was seen."""
        return not any(finding.severity == "impossible" for finding in self.findings)

    def to_dict(self):
        """For JSON."""
        return {**asdict(self), "healthy": self.healthy}


def examine(reader, pid=None):
    """`Diagnosis` of a reader (see `reader.open_trace`)."""
    forest, result = Forest(), Diagnosis()
    for record in reader:
        if pid is not None and record.pid != pid:
            continue
        result.records += 1
        if not record.understood:
            result.unparsed += 1
            continue
        forest.feed(record)
        if len(forest.findings) > LIMIT:
            result.more += len(forest.findings) - LIMIT
            del forest.findings[LIMIT:]
    result.findings = forest.findings
    result.pages = len(forest.alive())
    result.unplaced = forest.unplaced
    result.notes = list(getattr(reader, "notes", ()))
    result.stopped = getattr(reader, "stopped", None)
    if getattr(reader, "lost", 0):
        for finding in result.findings:
            finding.severity = "suspicious"
            finding.text += " (events were lost: this may be their trace)"
    return result
