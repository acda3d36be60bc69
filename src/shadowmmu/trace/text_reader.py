# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of text traces: tracefs `trace`, and the output of `trace-cmd report`.

    tracefs      vmm-590     [000] ...1.    23.503589: kvm_mmu_get_page: sp gen 0 gfn 10 l4 8-byte q0 wux ...
    trace-cmd    vmm-590     [000]          23.503589: kvm_mmu_get_page:     new sp gfn 10 4 q0 wux !pae nxe wp ...

The file is read in blocks, so a log of any size needs the memory of one block.  A line that is no event (comment,
lost events, second line of a marker) is counted, not an error; a file without any event is.
"""

import re

from .errors import TraceError
from .records import Record, Roles

BLOCK = 1 << 20
#: A line longer than this is not of a trace.
LONGEST_LINE = 1 << 16
#: Bytes without a single event after which the file is called foreign.
PATIENCE = 1 << 22

_LINE = re.compile(r" *([^\[]*)-(\d+) +(?:\([ \d-]+\) +)?\[(\d+)\] +(?:([^\s:]+) +)?(\d+)\.(\d+): ([^\s:]+): *(.*)",
                   re.DOTALL)
_LOST = re.compile(r"CPU:?\s*\d+ \[(?:LOST (\d+) EVENTS|EVENTS DROPPED)\]", re.IGNORECASE)
_SCALE = {6: 1000, 9: 1, 3: 1000000}


class TextReader:
    """Streams the records of a text trace.

    stream    binary file object
    name      of the file, for messages
    kernel    version, for role words that trace-cmd printed (detected by `open_trace` otherwise)
    progress  function(bytes read), called once per block

    Results, complete after the last record: `lines`, `events`, `skipped` (lines that are no events), `lost` (events
    that the ring buffer lost, as far as the file says), `notes` (sentences), `stopped` (None, or where and why reading
    ended early).
    """

    def __init__(self, stream, name="trace", kernel="6.12", progress=None):
        self.stream = stream
        self.name = name
        self.roles = Roles(kernel)
        self.progress = progress
        self.lines = self.events = self.skipped = self.lost = 0
        self.stopped = None
        self._notes = []
        self._last = None

    @property
    def notes(self):
        """What the user should know about the reading."""
        notes = list(self._notes)
        if self.roles.corrected:
            notes.append(f"{self.roles.corrected} shadow page lines were printed by trace-cmd with the role layout of "
                         f"2018 (bit 4 as pae); read again as Linux {self.roles.layout.kernel}. sync, unsync and zap "
                         "lines have no gfn in that form")
        if self.lost:
            notes.append(f"the recording lost events ({self.lost} or more)")
        return notes

    def __iter__(self):
        """Records in the order of the file.  TraceError if there is no event in it."""
        for batch in self.batches():
            yield from batch

    def batches(self):
        """Lists of records, one list per block of the file."""
        rest = b""
        total = 0
        while True:
            try:
                block = self.stream.read(BLOCK)
            except (OSError, EOFError, ValueError) as error:
                self._stop(f"cannot be read further: {error}")
                block = b""
            total += len(block)
            if self.progress and block:
                self.progress(total)
            if not block:
                if rest:
                    batch = self._parse(rest, last=True)
                    if batch:
                        yield batch
                break
            data = rest + block
            cut = data.rfind(b"\n") + 1
            if not cut and len(data) > LONGEST_LINE:
                self._stop(f"a line of more than {LONGEST_LINE} bytes after line {self.lines}: not a text trace")
                break
            rest = data[cut:]
            batch = self._parse(data[:cut])
            if batch:
                yield batch
            if not self.events and total > PATIENCE:
                break
        if not self.events:
            raise TraceError(self.stopped or "no trace events in this file", self.name)

    def _stop(self, why):
        self.stopped = f"line {self.lines + 1}: {why}"

    def _parse(self, data, last=False):
        text = data.decode("utf-8", "replace")
        lines = text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        match = _LINE.match
        roles = self.roles
        number = self.lines
        out = []
        append = out.append
        for line in lines:
            number += 1
            m = match(line)
            if m is None:
                self._other(line, out[-1] if out else self._last)
                continue
            task, pid, cpu, _flags, seconds, fraction, event, body = m.groups()
            scale = _SCALE.get(len(fraction)) or 10 ** max(0, 9 - len(fraction))
            append(Record(number, int(seconds) * 1000000000 + int(fraction) * scale, int(cpu), int(pid),
                          task, event, body, roles))
        self.lines = number
        self.events += len(out)
        if out:
            self._last = out[-1]
        if last and text and not text.endswith("\n") and self.events:
            self._notes.append(f"the last line ({number}) has no end: the file may be cut off")
        return out

    def _other(self, line, last):
        """A line without the columns of an event; `last` is the record before it."""
        if not line or line[0] == "#":
            return
        lost = _LOST.search(line)
        if lost:
            self.lost += int(lost[1] or 1)
        elif last is not None and last.event in ("tracing_mark_write", "print"):
            last.body += "\n" + line
        self.skipped += 1
