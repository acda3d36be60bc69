# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a guest image: find its kind, make VM and platform, run, collect.

    image.cfg (+ .bin)  recorded guest, flat image      platform golden
    bzImage             Linux, 64-bit or 32-bit entry   platform pc
    ELF, multiboot      multiboot 1 kernel              platform pc: serial console, exit port 0xf4
    ELF otherwise       vmlinux: PVH or 64-bit entry    platform pc
"""

from dataclasses import dataclass
from pathlib import Path

from ..engines.unicorn_svm.bare import BareRun
from ..engines.unicorn_svm.kvm import KvmRun, RunReport
from ..engines.unicorn_svm.profile import AMD, HostProfile
from ..mmu import events
from ..rules import DEFAULT
from ..state.store import Config
from ..vm import Vm
from . import boot_params, bzimage, elf_kernel, golden, multiboot, platform
from .image import PAGE, GuestImage, GuestImageError

#: The CPU under each value of `--mmu`.
MMUS = {"shadow": KvmRun, "none": BareRun}


@dataclass
class Session:
    """A finished run: the VM to look at, the report, and the final registers."""

    vm: Vm
    report: RunReport
    registers: dict


#: Values of `--entry`, and the kinds of image that know them.
ENTRIES = {"auto": "any image", "multiboot": "multiboot kernels", "linux64": "bzImage, vmlinux", "linux32": "bzImage",
           "pvh": "vmlinux"}
HEAD = 8192
DEFAULT_MEMORY, DEFAULT_LINUX_MEMORY = 128 << 20, 256 << 20


def kind(path) -> str:
    """"golden", "bzimage", "elf" (without a multiboot header) or "multiboot".  Raises GuestImageError."""
    if path.suffix == ".cfg":
        return "golden"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise GuestImageError(path, f"cannot read it: {error.strerror}") from None
    if bzimage.is_bzimage(head):
        return "bzimage"
    return "elf" if elf_kernel.is_elf(head) and not multiboot.has_magic(head) else "multiboot"


def load(path, arguments="", modules=(), memory_size=None, pcid=False, entry="auto") -> GuestImage:
    """Load an image by its kind.  entry: a key of ENTRIES.  Raises GuestImageError."""
    path = Path(path)
    if not path.exists():
        raise GuestImageError(path, "no such file")
    found = kind(path)
    if entry != "auto" and entry not in KNOWN_ENTRIES[found]:
        raise GuestImageError(path, f"entry {entry!r} is for {ENTRIES[entry]}")
    if found == "golden":
        return golden.load(path)
    if found == "multiboot" or entry == "multiboot":
        return multiboot.load(path, arguments, list(modules), memory_size or DEFAULT_MEMORY, pcid)
    if len(modules) > 1:
        raise GuestImageError(path, f"{len(modules)} initrds: Linux takes one")
    machine = boot_params.Machine(memory_size or DEFAULT_LINUX_MEMORY)
    loader = bzimage if found == "bzimage" else elf_kernel
    return loader.load(path, arguments, modules[0][0] if modules else None, machine, entry, pcid)


KNOWN_ENTRIES = {"golden": (), "bzimage": ("linux64", "linux32"), "elf": ("linux64", "pvh"), "multiboot": ("multiboot",)}


def shadow_capacity(memory_size):
    """Shadow pages to make room for: KVM's default quota (memory pages / 50, at least 64) and what may exceed it."""
    return max(memory_size // PAGE // 50, 64) + 1024


def run(image, *, mmu="shadow", rules=DEFAULT, profile: HostProfile = AMD, on_output=None, on_rows=None, timeout=None,
        max_instructions=None, la57=False, progress=None, maxphyaddr=None) -> Session:
    """Run `image` to its end.

    mmu: a key of MMUS.  on_output(bytes): serial output.  on_rows(rows): event rows as they come; without it no events
    are recorded.  timeout in seconds, max_instructions: limits.  progress(machine): called a few times a second.
    """
    pages = image.memory_size // PAGE
    config = Config(memory_pages=pages, shadow_pages=shadow_capacity(image.memory_size) * 2)
    vm = Vm(image.memory_size, rules=rules, config=config, record=events.ALL if on_rows else 0)
    devices = platform.make(image.platform, image.memory_size, on_output=on_output,
                            on_line=None if on_output is None else lambda text: on_output(text.encode() + b"\n"))
    machine = MMUS[mmu](vm, devices, profile=profile, drain=on_rows, timeout=timeout, max_instructions=max_instructions,
                        la57=la57, progress=progress, maxphyaddr=maxphyaddr)
    machine.load(image)
    report = machine.run()
    return Session(vm, report, machine.registers())
