# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a binary trace.dat, in time order over all CPUs, in bounded memory.

    pages of CPU 0 --ring.walk--> columns --+
    pages of CPU 1 --ring.walk--> columns --+--> events up to the time that every CPU has reached, sorted --> Record
    ...

`columns()` gives the events as numpy arrays (for tables); iterating gives the `Record`s that the text readers give,
with the text that the kernel itself would have printed.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..mmu import events as event_table
from . import dat_file, names, ring
from .errors import TraceError
from .layouts import layout_of
from .records import SP_EVENTS, Record, Roles
from .text import EXTRA, Formatter

#: Bytes of one CPU that are in memory at a time.
BLOCK = 1 << 20

#: Field of a format -> argument of `EVENTS`, where the names differ.
_FIELD_OF = {
    "kvm_mmu_get_page": {"gen": "mmu_valid_gen"}, "kvm_mmu_sync_page": {"gen": "mmu_valid_gen"},
    "kvm_mmu_unsync_page": {"gen": "mmu_valid_gen"}, "kvm_mmu_prepare_zap_page": {"gen": "mmu_valid_gen"},
    "kvm_mmu_zap_all_fast": {"gen": "mmu_valid_gen", "used_pages": "mmu_used_pages"},
    "fast_page_fault": {"vcpu": "vcpu_id", "gva": "cr2_or_gpa"},
    "kvm_mmu_set_spte": {"at": "sptep"},
    "kvm_page_fault": {"vcpu": "vcpu_id", "rip": "guest_rip", "address": "fault_address"},
    "kvm_exit": {"vcpu": "vcpu_id", "exit_code": "exit_reason", "rip": "guest_rip", "intr_error": "error_code"},
    "kvm_entry": {"vcpu": "vcpu_id"},
    "kvm_inj_exception": {"vector": "exception"},
    "kvm_emulate_insn": {"length": "len"},
    "kvm_pio": {"write": "rw", "value": "val"},
    "kvm_mmio": {"length": "len", "value": "val"},
    "kvm_cr": {"write": "rw", "value": "val"},
}
_FIELD_OF["kvm_nested_vmexit"] = _FIELD_OF["kvm_exit"]
_ARGUMENTS = dict(event_table.EVENTS.values())
_U64 = (1 << 64) - 1


@dataclass
class Columns:
    """A run of events in time order.

    time, cpu, pid, id   arrays; id is the event number of the file
    data, start, length  where each event's bytes are (`ring.structures` reads them)
    """

    time: np.ndarray
    cpu: np.ndarray
    pid: np.ndarray
    id: np.ndarray
    data: np.ndarray
    start: np.ndarray
    length: np.ndarray


class DatReader:
    """Streams the records of a trace.dat.

    stream    seekable binary file object
    name      of the file, for messages
    kernel    version for role words; None: as the file says
    progress  function(bytes read)

    Results after the last record: `events`, `lost` (pages before which events were lost), `unknown` (events without
    format: Counter by id), `notes`, `stopped`.  Raises TraceError at once if the head of the file is unreadable.
    """

    def __init__(self, stream, name="trace.dat", kernel=None, progress=None):
        self.stream = stream
        self.name = name
        self.file = dat_file.read_dat(stream, name)
        self.kernel_known = kernel is not None or self.file.kernel is not None
        self.roles = Roles(kernel or self.file.kernel or "6.12")
        self.progress = progress
        self.events = self.lost = 0
        self.unknown = Counter()
        self.stopped = None
        self._notes = list(self.file.notes)
        if self.file.buffers:
            self._notes.append(f"trace instances not read: {', '.join(self.file.buffers)}")
        self._total = 0
        self._printers = {}
        self._common = self._common_fields()

    @property
    def notes(self):
        """What the user should know about the reading."""
        notes = list(self._notes)
        if self.unknown:
            notes.append(f"{sum(self.unknown.values())} events of {len(self.unknown)} kinds without a format in the "
                         "file were left out")
        if self.lost:
            notes.append(f"the recording lost events before {self.lost} pages")
        if not self.kernel_known:
            notes.append("the file does not tell its kernel; roles read as Linux 6.12")
        return notes

    def _common_fields(self):
        """dtype of common_type and common_pid, from any format."""
        some = next(iter(self.file.formats.values())).dtype
        places = some.fields or {}
        kind, pid = places.get("common_type"), places.get("common_pid")
        if not kind or not pid:
            raise TraceError("event formats without common_type and common_pid", self.name)
        return np.dtype({"names": ["type", "pid"], "formats": [kind[0], pid[0]], "offsets": [kind[1], pid[1]],
                         "itemsize": max(kind[1] + kind[0].itemsize, pid[1] + pid[0].itemsize)})

    # -- columns

    def columns(self):
        """Yield `Columns` in time order over all CPUs."""
        sources = [_Source(self, cpu) for cpu in self.file.cpus if cpu.size]
        while True:
            for source in sources:
                source.fill()
            sources = [source for source in sources if source.events is not None]
            if not sources:
                return
            horizon = min(source.last_time for source in sources)
            parts = [part for source in sources if (part := source.take(horizon)) is not None]
            if len(parts) == 1:
                yield parts[0]
            elif parts:
                yield _merge(parts)

    def _blocks(self, cpu):
        """Columns of one CPU, block by block; damage ends the CPU with a note."""
        try:
            for block in dat_file.pages(self.stream, self.file, cpu, BLOCK):
                self._total += len(block)
                if self.progress:
                    self.progress(self._total)
                found = ring.walk(block, self.file.page)
                self.lost += found.missed
                for page, offset, why in found.damaged:
                    self._stop(f"CPU {cpu.cpu}, page {page} of a block, byte {offset}: {why}")
                too_short = found.length < self._common.itemsize
                if too_short.any():
                    keep = ~too_short
                    found.start, found.length, found.time = found.start[keep], found.length[keep], found.time[keep]
                if found.start.size:
                    yield self._block_columns(cpu, found)
        except TraceError as error:
            self._stop(str(error))

    def _block_columns(self, cpu, found):
        head = ring.structures(found.data, found.start, self._common)
        time = found.time
        if self.file.to_ns and "tsc" in self.file.clock:
            multiplier, shift, offset = self.file.to_ns
            low = time & np.uint64((1 << shift) - 1)
            time = ((time >> np.uint64(shift)) * np.uint64(multiplier)
                    + (low * np.uint64(multiplier) >> np.uint64(shift)) - np.uint64(offset))
        return Columns(time, np.full(found.start.size, cpu.cpu, np.int32), head["pid"].astype(np.int64),
                       head["type"].astype(np.int64), found.data, found.start, found.length)

    def _stop(self, why):
        if self.stopped is None:
            self.stopped = why
        self._notes.append(why)

    # -- records

    def __iter__(self):
        """Records in time order.  TraceError if the file has no readable event."""
        for batch in self.batches():
            yield from batch

    def batches(self):
        """Lists of records."""
        for columns in self.columns():
            yield self._records(columns)
        if not self.events:
            raise TraceError(self.stopped or "no events in this file", self.name)

    def _records(self, columns):
        count = columns.start.size
        bodies, event_names, roles = [None] * count, [None] * count, [None] * count
        for number in np.unique(columns.id):
            chosen = np.flatnonzero(columns.id == number)
            form = self.file.formats.get(int(number))
            if form is None:
                self.unknown[int(number)] += len(chosen)
                continue
            fits = columns.length[chosen] >= _needed(form)
            if not fits.all():
                self._stop(f"{int((~fits).sum())} {form.name} events are shorter than their format")
                chosen = chosen[fits]
            for index, body in zip(chosen.tolist(), self._bodies(columns, form, chosen), strict=True):
                bodies[index], event_names[index] = body, form.name
            if form.name in SP_EVENTS and "role" in (form.dtype.names or ()):
                words = ring.structures(columns.data, columns.start[chosen], form.dtype)["role"].tolist()
                for index, word in zip(chosen.tolist(), words, strict=True):
                    roles[index] = word
        out = []
        tasks = self.file.cmdlines
        times, cpus, pids = columns.time.tolist(), columns.cpu.tolist(), columns.pid.tolist()
        for i, body in enumerate(bodies):
            if body is None:
                continue
            self.events += 1
            name, pid = event_names[i], pids[i]
            if name == "print":
                name = "tracing_mark_write"
            out.append(Record(self.events, times[i], cpus[i], pid, tasks.get(pid, "<...>"), name, body, self.roles,
                              roles[i]))
        return out

    def _bodies(self, columns, form, chosen):
        """Texts of the chosen events, all of one format."""
        starts = columns.start[chosen]
        rows = ring.structures(columns.data, starts, form.dtype)
        if form.tail is not None:
            lengths = columns.length[chosen].tolist()
            data = columns.data
            return [bytes(data[s + form.tail:s + n]).split(b"\0")[0].decode("utf-8", "replace").rstrip("\n")
                    for s, n in zip(starts.tolist(), lengths, strict=True)]
        if form.id not in self._printers:
            self._printers[form.id] = _Printer(form, self.roles.layout)
        return self._printers[form.id].bodies(rows)


def _needed(form):
    """Bytes that a record of this format has at least (alignment may leave the end of the structure out)."""
    return max((offset + size for _name, offset, size, *_rest in form.fields), default=0)


class _Source:
    """The events of one CPU that have been read but not handed out."""

    def __init__(self, reader, cpu):
        self.blocks = reader._blocks(cpu)
        self.events = self.order = None
        self.done = False

    def fill(self):
        """Have events in hand, or be at the end."""
        if self.events is None and not self.done:
            self.events = next(self.blocks, None)
            self.done = self.events is None
            if not self.done:
                # time never runs back within a CPU; in a damaged file it may, and the merge must still advance
                self.order = np.maximum.accumulate(self.events.time)

    @property
    def last_time(self):
        return self.order[-1]

    def take(self, horizon):
        """Columns up to and including the time `horizon`, or None."""
        c = self.events
        cut = int(np.searchsorted(self.order, horizon, "right"))
        if cut == 0:
            return None
        if cut == c.time.size:
            self.events = None
            return c
        self.events, self.order = _slice(c, slice(cut, None)), self.order[cut:]
        return _slice(c, slice(0, cut))


def _slice(c, part):
    return Columns(c.time[part], c.cpu[part], c.pid[part], c.id[part], c.data, c.start[part], c.length[part])


def _merge(parts):
    """Columns of several CPUs as one, sorted by time."""
    offsets = np.cumsum([0] + [p.data.size for p in parts[:-1]])
    time = np.concatenate([p.time for p in parts])
    order = np.argsort(time, kind="stable")
    start = np.concatenate([p.start + shift for p, shift in zip(parts, offsets, strict=True)])

    def joined(name):
        return np.concatenate([getattr(p, name) for p in parts])[order]

    return Columns(time[order], joined("cpu"), joined("pid"), joined("id"),
                   np.concatenate([p.data for p in parts]), start[order], joined("length"))


class _Printer:
    """Texts of one format's events.  Equal events share one text."""

    def __init__(self, form, layout):
        self.name = form.name
        self.formatter = Formatter(layout_of(layout), recorded=True)
        self.fields = [name for name, *_rest in form.fields if not name.startswith("common_")]
        known = form.name in SP_EVENTS or self.formatter.knows(form.name)
        self.getters = self._plan(form) if known else None
        #: fast_page_fault prints its result as two flags; the numbers behind them moved in 6.11
        self.results = [int(n) for n in _RESULT.findall(form.text)]
        self.cache = {}

    def _plan(self, form):
        """For each argument the field that gives it, or None; None for all if the format lacks one."""
        present = set(self.fields)
        renamed = _FIELD_OF.get(self.name, {})
        plan = []
        for argument in _ARGUMENTS[self.name]:
            field = renamed.get(argument, argument)
            if field not in present and argument not in (*_DERIVED.get(self.name, ()), *_SINCE_7_2.get(self.name, ())):
                return None
            plan.append(field)
        return plan + [renamed.get(argument, argument) for argument in EXTRA.get(self.name, ())]

    def bodies(self, rows):
        """Texts of an array of structures."""
        names_ = [name for name in self.fields if name in (rows.dtype.names or ())]
        columns = [rows[name].tolist() for name in names_]
        out = []
        cache = self.cache
        for values in zip(*columns, strict=True) if columns else [()] * len(rows):
            key = tuple(map(tuple, (v if isinstance(v, list) else (v,) for v in values))) if self._arrays else values
            body = cache.get(key)
            if body is None:
                if len(cache) > 100000:
                    cache.clear()
                body = cache[key] = self._body(dict(zip(names_, values, strict=True)))
            out.append(body)
        return out

    @property
    def _arrays(self):
        return self.name == "kvm_emulate_insn" or self.getters is None

    def _body(self, fields):
        if self.getters is None:
            return " ".join(f"{name}={value}" for name, value in fields.items())
        derive = _DERIVE.get(self.name)
        if derive:
            derive(fields, self.results)
        return self.formatter.body(self.name, [int(fields.get(field, 0)) & _U64 for field in self.getters])


_RESULT = re.compile(r"REC->ret == (\d+)")


def _emulate_fields(fields, _results):
    code = bytes(fields["insn"])
    fields["bytes_low"] = int.from_bytes(code[:8], "little")
    fields["bytes_high"] = int.from_bytes(code[8:], "little")
    mode = names.EMULATOR_FLAGS.get(fields["flags"])
    fields["mode"] = names.EMULATOR_MODES.index(mode) if mode else fields["flags"] + len(names.EMULATOR_MODES)


def _fast_fault_fields(fields, results):
    spurious, fixed = results if len(results) == 2 else (5, 4)
    fields["spurious"], fields["fixed"] = int(fields["ret"] == spurious), int(fields["ret"] == fixed)


def _valid_field(fields, _results):
    fields["valid"] = int(fields["kvm_gen"] == fields["spte_gen"])


def _letters(fields, _results):
    fields["letters"] = 1
    fields["u"] = fields.get("u", 0) & 0xFF


#: Arguments that older kernels do not have.
_SINCE_7_2 = {"kvm_mmu_spte_requested": ("access",), "kvm_entry": ("immediate_exit", "intr_info", "error_code")}
#: Arguments that are computed from other fields, and how.
_DERIVED = {"kvm_emulate_insn": ("bytes_low", "bytes_high", "mode"), "fast_page_fault": ("spurious", "fixed"),
            "check_mmio_spte": ("valid",)}
_DERIVE = {"kvm_emulate_insn": _emulate_fields, "fast_page_fault": _fast_fault_fields,
           "check_mmio_spte": _valid_field, "kvm_mmu_set_spte": _letters}
