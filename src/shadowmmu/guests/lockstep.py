# SPDX-License-Identifier: GPL-2.0-or-later
"""`run --lockstep`: one guest on two machines, ours and the engine's own MMU, compared as they go.

    shadow MMU   --N instructions or a port access--> stop --+
                                                             +-- registers; at every N also memory --> go on, or tell
    --mmu none   --N instructions or a port access--> stop --+

Both count instructions exactly (an emulated store counts as one), so the virtual clock, the timer's interrupts and what
RDTSC reads are the same.  There is no input.  One difference is allowed and counted: accessed and dirty bits in words of
guest page tables, which a TLB may set earlier or later (SDM vol. 3 4.8).
"""

import struct
from dataclasses import dataclass, field

import numpy

from ..engines.unicorn_svm import quick
from . import session

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
ACCESSED_DIRTY = 0x60
PAE, LA57, LMA = 1 << 5, 1 << 12, 1 << 10
FRAME_MASK = (1 << 40) - 1
EVERY = 100_000
SIDES = ("shadow", "none")


@dataclass
class Outcome:
    """reason: "equal", "different", or how a limit ended the run; instructions: at the last checkpoint; registers:
    {name: (shadow, none)} that differ; memory: (gpa, shadow, none) of the first word, or None; text: one line."""

    reason: str
    text: str
    instructions: int
    checkpoints: int = 0
    since: int = 0
    rip: int = 0
    symbol: str = ""
    accessed_dirty: int = 0
    registers: dict = field(default_factory=dict)
    memory: tuple | None = None
    ends: tuple = ("", "")


class Symbols:
    """Nearest symbol at or below an address, from an ELF file's symbol table; nothing for other files.

    An ELF32 file may be a 64-bit kernel in the clothes that multiboot wants: only the low 32 bits of an address count."""

    def __init__(self, path):
        self.table, self.mask = [], -1
        try:
            with open(path, "rb") as file:
                data = file.read()
            if data[:4] == b"\x7fELF":
                wide = data[4] == 2
                self.mask = -1 if wide else 0xFFFFFFFF
                self._read(data, wide)
        except (OSError, TypeError, struct.error):
            self.table = []     # a convenience only: the difference is told without it
        self.table.sort()

    def _read(self, data, wide):
        at, = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)
        size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
        form = "<IIQQQQIIQQ" if wide else "<10I"
        sections = [struct.unpack_from(form, data, at + i * size) for i in range(count)]
        for _, kind, _, _, start, length, link, *_ in sections:
            if kind != 2:   # SHT_SYMTAB
                continue
            strings = sections[link][4]
            for entry in range(start, start + length, 24 if wide else 16):
                if wide:
                    name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, entry)
                else:
                    name, value, _, _, _, section = struct.unpack_from("<IIIBBH", data, entry)
                text = data[strings + name:data.index(b"\0", strings + name)].decode("latin-1")
                if text and 0 < section < 0xFF00:   # defined, and no constant
                    self.table.append((value, text))

    def near(self, address):
        """"name+0x12", or ""."""
        address &= self.mask
        below = [entry for entry in self.table if entry[0] <= address]
        return f"{below[-1][1]}+{address - below[-1][0]:#x}" if below else ""


def registers(machine):
    """All that is compared, by name."""
    hw, out = machine.hardware, machine.registers()
    for number, name in enumerate(SEGMENTS):
        segment = hw.segment(number)
        out[name], out[f"{name}.base"] = segment.selector, segment.base
    for name in ("gdtr", "idtr"):
        out[f"{name}.base"], out[f"{name}.limit"] = getattr(hw, name)
    return out | {f"dr{i}": hw.dr[i] for i in (0, 1, 2, 3, 6, 7)}


def tables(machine, words):
    """Frames of all guest page tables below every CR3 that the machine has loaded; words: its memory."""
    cr4, long_mode = machine.vcpu.cr4, machine.vcpu.efer & LMA
    levels = (5 if cr4 & LA57 else 4) if long_mode else 3 if cr4 & PAE else 2
    found, below = set(), {(root >> 12, levels) for root in machine.roots}
    if levels == 3:     # four entries, at any multiple of 32
        found, below = below, {(frame, 2) for root in machine.roots
                               for frame in _entries(words[root >> 3:(root >> 3) + 4], False)}
    while below:
        found |= below
        below = {(frame, level - 1) for table, level in below if level > 1 and table < len(words) >> 9
                 for frame in _entries(words[table << 9:(table + 1) << 9], levels == 2)} - found
    return {frame for frame, _ in found}


def _entries(words, narrow):
    """Frames that the present entries of a table point to, large pages left out."""
    if narrow:
        words = words.view("<u4")
    used = words[(words & 0x81) == 1]
    return {int(word) >> 12 & FRAME_MASK for word in used}


class Lockstep:
    """Two machines with the same guest loaded.  path: of the image, for its symbols; every: instructions between
    comparisons of memory; options: as `session.run`."""

    def __init__(self, image, path, *, every=EVERY, on_output=None, **options):
        self.every, self.symbols = every, Symbols(path)
        self.machines = []
        for mmu in SIDES:
            vm, machine = session.machine_for(image.memory_size, image.platform, mmu=mmu, counting="exact",
                                              on_output=on_output if mmu == "shadow" else None, **options)
            machine.load(image)
            machine.stop_at_io = True
            machine.quick_cells[quick.ENABLED] = 0    # ports and CPUID go through Python, where a run can stop
            self.machines.append(machine)
        self.words = [numpy.frombuffer(m.vm.store.ram(), dtype="<u8")[:image.memory_size // 8] for m in self.machines]
        self.tables, self.tolerated = set(), set()

    def run(self):
        """To the first difference or the end: an Outcome."""
        shadow, none = self.machines
        for machine in self.machines:
            machine.start()
        checkpoints = since = 0
        until = self.every
        while True:
            for machine in self.machines:
                machine.go_on(until)
            count = shadow.hardware.instruction_count
            # several iterations of a REP STOS may have been emulated at once, past the checkpoint
            if none.hardware.instruction_count < count:
                none.go_on(count)
            checkpoints += 1
            ended = any(machine.report is not None for machine in self.machines)
            whole = ended or count >= until
            out = self._compare(whole)
            if out is None and not ended:
                since = count
                while until <= count:
                    until += self.every
                continue
            if out is None:
                limit = {m.report.reason for m in self.machines if m.report} & {"timeout", "limit", "interrupted"}
                reason = limit.pop() if limit else "equal"
                out = Outcome(reason, f"no difference in {count:,} instructions", count)
                since = count
            out.checkpoints, out.since, out.accessed_dirty = checkpoints, since, len(self.tolerated)
            out.rip = shadow.hardware.rip
            out.symbol = self.symbols.near(out.rip)
            out.ends = tuple(machine.report.text if machine.report else "" for machine in self.machines)
            return out

    def _compare(self, whole):
        """An Outcome when the sides differ.  whole: memory too."""
        ends = [(m.report.reason, m.report.exit_code) if m.report else None for m in self.machines]
        if any(end and end[0] in ("timeout", "interrupted") for end in ends):
            return None     # stopped somewhere: nothing to compare
        counts = [m.hardware.instruction_count for m in self.machines]
        left, right = (registers(m) for m in self.machines)
        changed = {name: (left[name], right[name]) for name in left if left[name] != right[name]}
        if counts[0] != counts[1]:
            changed = {"instructions": tuple(counts)} | changed
        memory = self._memory() if whole or changed else None
        if not changed and memory is None and ends[0] == ends[1]:
            return None
        what = "how the guest ends" if ends[0] != ends[1] else "registers" if changed else "memory"
        return Outcome("different", f"difference in {what} at instruction {counts[0]:,}", counts[0], registers=changed,
                       memory=memory)

    def _memory(self):
        """First differing word (gpa, shadow, none) that is not only accessed and dirty bits of a guest page table."""
        a, b = self.words
        self.tables.update(page.gfn for page in self.machines[0].vm.shadow_pages)
        if numpy.array_equal(a, b):
            return None
        different = numpy.nonzero(a != b)[0]
        if any(int(index) >> 9 not in self.tables for index in different):
            self.tables.update(tables(self.machines[1], b))
        for index in different:
            gpa, left, right = int(index) * 8, int(a[index]), int(b[index])
            mask = ACCESSED_DIRTY | ACCESSED_DIRTY << 32    # two entries of a 32-bit table
            if (left ^ right) & ~mask or gpa >> 12 not in self.tables:
                return gpa, left, right
            self.tolerated.add(gpa)
        return None


def table(out):
    """An Outcome for people."""
    place = f" ({out.symbol})" if out.symbol else ""
    lines = [f"lockstep: {out.text}, {out.checkpoints:,} checkpoints, RIP {out.rip:#x}{place}"]
    if out.accessed_dirty:
        lines.append(f"  {out.accessed_dirty} words of guest page tables differed in accessed or dirty bits at some checkpoint")
    if out.reason == "different":
        lines.append(f"  equal at instruction {out.since:,}")
        lines.append(f"  {'':<14}{'shadow':>18}{'none':>18}")
        lines += [f"  {name:<14}{left:>18x}{right:>18x}" if name != "instructions" else
                  f"  {name:<14}{left:>18,}{right:>18,}" for name, (left, right) in out.registers.items()]
        if out.memory:
            lines.append(f"  {'[' + format(out.memory[0], 'x') + ']':<14}{out.memory[1]:>18x}{out.memory[2]:>18x}")
    lines += [f"  {side:<8}{text}" for side, text in zip(SIDES, out.ends, strict=True) if text]
    return "\n".join(lines)
