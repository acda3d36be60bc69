# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded run on disk, in the layout of `golden/`.

    ROOT/guests/g1.bin  g1.cfg
    ROOT/logs/6.12/g1/   result.txt  trace.txt.gz  pfnmap.txt.gz  norm.txt.gz  mem.bin.gz  spn/  sp_000_mark1.txt.gz ...

Any file may be there with or without .gz; only result.txt is needed.  norm.txt and spn/ are derived from the raw
files when they are missing.
"""

import gzip
import re
import zlib
from collections import Counter
from pathlib import Path

from . import dump, layouts
from .errors import TraceError
from .normalise import Normaliser, read_frames

#: First words of the lines of result.txt that the guest or the VMM reports while the guest runs, in order.
VALUE_WORDS = frozenset(("MARK", "VAL", "PFEC", "PFCR2", "EXC", "EXIT", "DIRTY", "MMIO", "HOSTOP", "IO",
                         "L2EXIT", "L2INFO1", "L2INFO2", "L2RIP", "STEP"))

_DUMP = re.compile(r"sp_(\d+)_(\w+)\.txt(?:\.gz)?$")


def read_bytes(path):
    """Contents of `path`, or of `path`.gz.  None if neither exists, TraceError if it cannot be read."""
    for name in (path, path.with_name(path.name + ".gz")):
        if name.exists():
            try:
                data = name.read_bytes()
                return gzip.decompress(data) if name.suffix == ".gz" else data
            except (OSError, EOFError, zlib.error) as error:
                raise TraceError(f"cannot be read: {error}", name) from None
    return None


class RecordedRun:
    """One directory of a recorded run.

    path    the directory
    kernel  layout name from the directory above ("6.12-npt1" is kernel 6.12, mode npt1)
    guest   name of the guest; `image` and `config` are its files in ROOT/guests (they may not exist)

    Raises TraceError if the directory is not a recorded run.
    """

    def __init__(self, path):
        self.path = Path(path).resolve()
        if not self.path.is_dir():
            raise TraceError("no such directory", path)
        result = read_bytes(self.path / "result.txt")
        if result is None:
            raise TraceError("not a recorded run: no result.txt", path)
        self.result = result.decode(errors="replace").splitlines()
        name, _, self.mode = self.path.parent.name.partition("-")
        try:
            self.kernel = layouts.layout_of(name).kernel
        except ValueError:
            raise TraceError(f"the directory above should be a kernel version, not {name!r}", path) from None
        self.guest = self.path.name
        guests = self.path.parent.parent.parent / "guests"
        self.image, self.config = guests / f"{self.guest}.bin", guests / f"{self.guest}.cfg"
        self._frames = None

    @property
    def guest_frames(self):
        """pfn -> gfn of guest memory during the recording."""
        if self._frames is None:
            data = read_bytes(self.path / "pfnmap.txt")
            try:
                self._frames = read_frames((data or b"").decode())
            except ValueError:
                raise TraceError("lines should be: gfn pfn", self.path / "pfnmap.txt") from None
        return self._frames

    def events(self):
        """(normal event lines, Counter of rule -> lines touched while they were made)."""
        raw = read_bytes(self.path / "trace.txt")
        ready = read_bytes(self.path / "norm.txt")
        lines, touched = None, Counter()
        if raw is not None:
            normaliser = Normaliser(self.guest_frames)
            lines = list(normaliser.lines(raw.decode(errors="replace").split("\n")))
            touched = normaliser.touched
        if ready is not None:
            lines = ready.decode(errors="replace").removesuffix("\n").split("\n")
        if lines is None:
            raise TraceError("neither norm.txt nor trace.txt", self.path)
        return lines, touched

    def dumps(self):
        """[(tag, NormalDump)] in recorded order; tag is "mark3" or "exit"."""
        found = []
        for folder, parse in ((self.path / "spn", dump.parse), (self.path, self._parse_raw)):
            names = sorted((int(m[1]), m[2], entry) for entry in folder.iterdir()
                           if (m := _DUMP.match(entry.name))) if folder.is_dir() else []
            for _number, tag, entry in names:
                data = read_bytes(entry)
                found.append((tag, parse(data.decode(errors="replace"), str(entry))))
            if found:
                break
        return found

    def _parse_raw(self, text, where):
        return dump.parse_raw(text, self.guest_frames, where)

    def values(self):
        """Lines that the guest and the VMM reported, in order."""
        return value_lines(self.result)

    def stats(self):
        """{"vm": {name: value}, "vcpu": {name: value}}; the recording left zeros out."""
        stats = {"vm": {}, "vcpu": {}}
        for line in self.result:
            words = line.split()
            if len(words) == 4 and words[0] == "STAT":
                stats.setdefault(words[1], {})[words[2]] = int(words[3])
        return stats

    def registers(self):
        """Final registers by name, from the REGS and SREGS lines (segments left out)."""
        registers = {}
        for line in self.result:
            words = line.split()
            if words and words[0] in ("REGS", "SREGS"):
                for name, value in zip(words[1::2], words[2::2], strict=False):
                    if name not in ("cs", "ss"):
                        registers[name] = int(value, 16)
        return registers

    def memory(self):
        """Final guest memory, or None if it was not kept."""
        return read_bytes(self.path / "mem.bin")

    def settings(self):
        """The guest's .cfg as a dict of texts; empty if there is none."""
        data = read_bytes(self.config)
        pairs = (line.split(None, 1) for line in (data or b"").decode().splitlines() if not line.startswith("#"))
        return {words[0]: words[1].strip() for words in pairs if len(words) == 2}


def value_lines(lines):
    """Those of `lines` that are values (`VALUE_WORDS`)."""
    return [line for line in lines if line.split(" ", 1)[0] in VALUE_WORDS]
