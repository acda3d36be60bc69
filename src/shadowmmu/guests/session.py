# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a guest image: find its kind, make VM and platform, run, collect.

    image.cfg (+ .bin)  recorded guest, flat image     platform golden
    anything else       multiboot 1 kernel (ELF)       platform pc: serial console, exit port 0xf4
"""

from dataclasses import dataclass
from pathlib import Path

from ..engines.unicorn_svm.bare import BareRun
from ..engines.unicorn_svm.kvm import KvmRun, RunReport
from ..engines.unicorn_svm.profile import AMD, HostProfile
from ..engines.unicorn_svm.tdp import NestedPagingRun
from ..mmu import events
from ..rules import DEFAULT
from ..state.store import Config
from ..vm import Vm
from . import golden, multiboot, platform
from .image import PAGE, GuestImage, GuestImageError

#: `--mmu`: the CPU, and the MMU of the `Vm`.
MMUS = {"shadow": (KvmRun, "shadow"), "none": (BareRun, "shadow"), "tdp": (NestedPagingRun, "tdp"),
        "tdp-legacy": (NestedPagingRun, "tdp-legacy")}


@dataclass
class Session:
    """A finished run: the VM to look at, the report, and the final registers."""

    vm: Vm
    report: RunReport
    registers: dict


def load(path, arguments="", modules=(), memory_size=None, pcid=False) -> GuestImage:
    """Load an image by its kind.  Raises GuestImageError."""
    path = Path(path)
    if not path.exists():
        raise GuestImageError(path, "no such file")
    if path.suffix == ".cfg":
        return golden.load(path)
    return multiboot.load(path, arguments, list(modules), memory_size or 128 << 20, pcid)


def shadow_capacity(memory_size):
    """Shadow pages to make room for: KVM's default quota (memory pages / 50, at least 64) and what may exceed it."""
    return max(memory_size // PAGE // 50, 64) + 1024


def run(image, *, mmu="shadow", rules=DEFAULT, profile: HostProfile = AMD, on_output=None, on_rows=None, timeout=None,
        max_instructions=None, la57=False, progress=None, nested=False) -> Session:
    """Run `image` to its end.

    mmu: a key of MMUS.  on_output(bytes): serial output.  on_rows(rows): event rows as they come; without it no events
    are recorded.  timeout in seconds, max_instructions: limits.  progress(machine): called a few times a second.
    nested: SVM is offered to the guest.
    """
    pages = image.memory_size // PAGE
    config = Config(memory_pages=pages, shadow_pages=shadow_capacity(image.memory_size) * 2)
    cpu, kind = MMUS[mmu]
    vm = Vm(image.memory_size, rules=rules, mmu=kind, config=config, record=events.ALL if on_rows else 0)
    devices = platform.make(image.platform, image.memory_size, on_output=on_output,
                            on_line=None if on_output is None else lambda text: on_output(text.encode() + b"\n"))
    machine = cpu(vm, devices, profile=profile, drain=on_rows, timeout=timeout, max_instructions=max_instructions,
                  la57=la57, progress=progress, nested=nested)
    machine.load(image)
    report = machine.run()
    return Session(vm, report, machine.registers())
