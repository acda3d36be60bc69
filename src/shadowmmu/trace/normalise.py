# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made equal before two logs are compared: every rule, its reason, and how many lines it touched.

    vmm-590 [000] ...1. 23.503: kvm_mmu_set_spte: gfn 8 spte 2b36a25 (r-xu) level 1 at 84e8040
                                                       |  guest-frame                |  spte-place
                                kvm_mmu_set_spte: gfn 8 spte G8|a25 (r-xu) level 1 idx 8

`RULES` is the only list of normalisations in the project; `docs/fidelity.md` is written from it.  `Normaliser` applies
those of the event log to the kernel's text; the others belong to `compare`.
"""

import re
from collections import Counter
from dataclasses import dataclass

from .text import spte_text


@dataclass(frozen=True)
class Rule:
    """One normalisation: what it does to the recorded side (or to both), and why equality there means nothing."""

    what: str
    reason: str


RULES = {
    # event log
    "other-task": Rule("lines of tasks other than the VMM are left out",
                       "the recording machine's own processes; the guest cannot cause them"),
    "host-interrupt": Rule("kvm_exit with reason interrupt, its nested twin and the re-entry are left out",
                           "timer interrupts of the recording host; they do not touch the MMU"),
    "reinjected": Rule("kvm_inj_exception lines with [reinjected] are left out",
                       "an entry cancelled by a host interrupt injects its event again"),
    "guest-frame": Rule("a host frame that holds guest page g is written G<g>, in pfn and spte",
                        "where guest memory lies in the host differs from run to run"),
    "shadow-frame": Rule("any other host frame in an spte is written S",
                         "where shadow tables lie in the host differs from run to run"),
    "spte-place": Rule("`at <address>` becomes `idx <entry number>`", "host address of a shadow table"),
    "spte-pointer": Rule("the sptep of mark_mmio_spte and fast_page_fault is written *",
                         "the kernel prints pointers hashed with a secret of the boot"),
    "event-info": Rule("intr_info, error_code and requests at the end of kvm_exit and kvm_entry are left out",
                       "the recording emulator leaves stale values there; requests depend on host timing"),
    # states
    "n-used-7.2": Rule("n_used is compared as 0 on 7.2", "the dump module found no such field in 7.2 and printed 0"),
    "pae-root-accessed": Rule("bit 5 of the four pae_root entries is not compared",
                              "the recording emulator's page walk sets A in PDPTEs; a CPU loads them into registers "
                              "and reserves the bit (SDM vol. 3 4.4.1)"),
    # registers
    "rflags-rf": Rule("RFLAGS.RF is not compared in the final registers",
                      "the recording emulator clears RF at the end of a translated block, a CPU after an instruction"),
    # counters
    "exits-minus-interrupts": Rule("exits is compared without irq_exits", "host timer interrupts count as exits"),
    "host-counters": Rule("counters of the host's own doings are not compared",
                          "scheduling, interrupts and FPU switching of the recording machine"),
}

_LINE = re.compile(r"\s*(\S+)-\d+\s+\[\d+\] \S+\s+[\d.]+: (.*)", re.DOTALL)
_PFN = re.compile(r"pfn ([0-9a-f]+)")
_SPTE = re.compile(r"spte ([0-9a-f]+)")
_OLD_NEW = re.compile(r"old 0x([0-9a-f]+) new ([0-9a-f]+)")
_PLACE = re.compile(r"at ([0-9a-f]{4,})$")
_POINTER = re.compile(r"sptep:? ?(?:0x)?[0-9a-f]{8,}")
_ANY_POINTER = re.compile(r"sptep:? ?(?:\(____ptrval____\)|\(null\)|(?:0x)?[0-9a-f]{8,}|\*)")
_EVENT_INFO = re.compile(r" intr_info 0x[0-9a-f]+ error_code 0x[0-9a-f]+(?: requests 0x[0-9a-f]+)?$")


def read_frames(text):
    """pfnmap.txt ("gfn pfn" in hex per line) as a dict pfn -> gfn.  ValueError on anything else."""
    frames = {}
    for line in text.split("\n"):
        if line.strip():
            gfn, pfn = line.split()
            frames[int(pfn, 16)] = int(gfn, 16)
    return frames


def is_reinjection(body):
    """Rule `reinjected`, for an event's text (name, colon, rest)."""
    return body.startswith("kvm_inj_exception:") and "[reinjected]" in body


class Normaliser:
    """Applies the rules for the event log to the text of a tracefs `trace` file.

    guest_frames  pfn -> gfn of guest memory
    task          name of the VMM's task; lines of others are left out
    touched       (result) Counter: rule -> lines it changed or left out
    """

    def __init__(self, guest_frames, task="vmm"):
        self.guest_frames = guest_frames
        self.task = task
        self.touched = Counter()
        self._in_interrupt = False

    def lines(self, lines):
        """Normal lines of an iterable of raw lines (with or without newline), comments left out."""
        for line in lines:
            line = line.rstrip("\n")
            match = _LINE.match(line)
            if match:
                task, body = match.groups()
                if task != self.task:
                    self.touched["other-task"] += 1
                    continue
            elif line.startswith("#") or not line.strip():
                continue
            else:
                body = line                           # a marker with a line break
            body = self.event(body)
            if body is not None:
                yield body

    def event(self, body):
        """Normal form of one event's text (name, colon, rest), or None if a rule leaves it out."""
        name = body.partition(":")[0]
        if name in _WITH_FRAMES:
            body = self._frames(body)
        if is_reinjection(body):
            self.touched["reinjected"] += 1
            return None
        if name in ("kvm_exit", "kvm_entry", "kvm_nested_vmexit", "kvm_nested_vmexit_inject"):
            shorter = _EVENT_INFO.sub("", body)
            if shorter != body:
                self.touched["event-info"] += 1
                body = shorter
            if self._drop_interrupt(name, body):
                self.touched["host-interrupt"] += 1
                return None
        return body

    def _drop_interrupt(self, name, body):
        if name == "kvm_exit" and "reason interrupt" in body:
            self._in_interrupt = True
            return True
        if not self._in_interrupt:
            return False
        if name == "kvm_nested_vmexit":
            return "reason interrupt" in body
        if name == "kvm_entry":
            self._in_interrupt = False
            return True
        return False

    def _frames(self, body):
        self._seen = set()
        body = _PFN.sub(lambda m: f"pfn {self._frame(int(m[1], 16))}", body)
        body = _SPTE.sub(lambda m: f"spte {spte_text(int(m[1], 16), self._frame)}", body)
        body = _OLD_NEW.sub(lambda m: f"old {spte_text(int(m[1], 16), self._frame)} "
                                      f"new {spte_text(int(m[2], 16), self._frame)}", body)
        shorter = _PLACE.sub(lambda m: f"idx {(int(m[1], 16) & 0xFFF) // 8:x}", body)
        if shorter != body:
            self._seen.add("spte-place")
            body = shorter
        if "sptep" in body:
            shorter = _POINTER.sub("sptep *", body)
            if shorter != body:
                self._seen.add("spte-pointer")
                body = shorter
        self.touched.update(self._seen)
        return body

    def _frame(self, pfn):
        gfn = self.guest_frames.get(pfn)
        self._seen.add("shadow-frame" if gfn is None else "guest-frame")
        return "S" if gfn is None else f"G{gfn:x}"


_WITH_FRAMES = frozenset((
    "kvm_mmu_set_spte", "kvm_mmu_spte_requested", "fast_page_fault", "mark_mmio_spte", "check_mmio_spte",
    "kvm_tdp_mmu_spte_changed", "kvm_mmu_split_huge_page"))


def fold_pointer(line):
    """A normal line with any spelling of an sptep replaced by * (rule spte-pointer)."""
    return _ANY_POINTER.sub("sptep *", line) if "sptep" in line else line
