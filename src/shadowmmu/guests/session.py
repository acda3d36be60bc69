# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a guest image: find its kind, make VM and platform, run, collect.

    image.cfg (+ .bin)  recorded guest, flat image      platform golden
    bzImage             Linux, 64-bit or 32-bit entry   platform pc
    ELF, multiboot      multiboot 1 kernel              platform pc: serial console, exit port 0xf4
    ELF otherwise       vmlinux: PVH or 64-bit entry    platform pc
"""

from dataclasses import dataclass
from pathlib import Path

from ..engines.unicorn_svm import snapshot
from ..engines.unicorn_svm.bare import BareRun
from ..engines.unicorn_svm.kvm import KvmRun, RunReport
from ..engines.unicorn_svm.profile import AMD, PROFILES, HostProfile
from ..engines.unicorn_svm.smp import QUANTUM, SmpRun
from ..engines.unicorn_svm.tdp import NestedPagingRun
from ..mmu import events
from ..rules import DEFAULT
from ..state.store import Config
from ..vm import Vm
from . import boot_params, bzimage, elf_kernel, golden, multiboot, platform
from .image import PAGE, GuestImage, GuestImageError

#: `--mmu`: the CPU, and the MMU of the `Vm`.
MMUS = {"shadow": (KvmRun, "shadow"), "none": (BareRun, "shadow"), "tdp": (NestedPagingRun, "tdp"),
        "tdp-legacy": (NestedPagingRun, "tdp-legacy")}
#: Values of `--mmu` whose state a snapshot holds whole.
SAVABLE = ("shadow", "none", "tdp", "tdp-legacy")


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
MAX_CPUS = 16
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


def load(path, arguments="", modules=(), memory_size=None, pcid=False, entry="auto", cpus=1) -> GuestImage:
    """Load an image by its kind.  entry: a key of ENTRIES.  Raises GuestImageError."""
    path = Path(path)
    if not path.exists():
        raise GuestImageError(path, "no such file")
    found = kind(path)
    if entry != "auto" and entry not in KNOWN_ENTRIES[found]:
        raise GuestImageError(path, f"entry {entry!r} is for {ENTRIES[entry]}")
    if found == "golden":
        if cpus > 1:
            raise GuestImageError(path, "a recorded guest has one CPU")
        return golden.load(path)
    if found == "multiboot" or entry == "multiboot":
        return multiboot.load(path, arguments, list(modules), memory_size or DEFAULT_MEMORY, pcid)
    if len(modules) > 1:
        raise GuestImageError(path, f"{len(modules)} initrds: Linux takes one")
    machine = boot_params.Machine(memory_size or DEFAULT_LINUX_MEMORY, cpus)
    loader = bzimage if found == "bzimage" else elf_kernel
    return loader.load(path, arguments, modules[0][0] if modules else None, machine, entry, pcid)


KNOWN_ENTRIES = {"golden": (), "bzimage": ("linux64", "linux32"), "elf": ("linux64", "pvh"), "multiboot": ("multiboot",)}


def shadow_capacity(memory_size):
    """Shadow pages to make room for: KVM's default quota (memory pages / 50, at least 64) and what may exceed it."""
    return max(memory_size // PAGE // 50, 64) + 1024


def machine_for(memory_size, platform_name, *, mmu="shadow", rules=DEFAULT, profile: HostProfile = AMD, on_output=None,
                on_rows=None, cpus=1, quantum=None, **limits):
    """(vm, machine) without anything loaded; arguments as `run`."""
    config = Config(vcpus=cpus, memory_pages=memory_size // PAGE, shadow_pages=shadow_capacity(memory_size) * 2)
    cpu, kind = MMUS[mmu]
    vm = Vm(memory_size, rules=rules, mmu=kind, config=config, record=events.ALL if on_rows else 0)
    devices = platform.make(platform_name, memory_size, cpus, on_output=on_output,
                            on_line=None if on_output is None else lambda text: on_output(text.encode() + b"\n"))
    if cpus > 1:
        return vm, SmpRun(cpu, vm, devices, quantum=quantum or QUANTUM, profile=profile, drain=on_rows, **limits)
    return vm, cpu(vm, devices, profile=profile, drain=on_rows, **limits)


def run(image, *, save_to=None, poll_input=None, **options) -> Session:
    """Run `image` to its end.

    mmu: a key of MMUS.  rules, profile: which kernel's MMU, on which host.  on_output(bytes): serial output.
    on_rows(rows): event rows as they come; without it no events are recorded.  timeout in seconds, max_instructions:
    limits.  progress(machine): called a few times a second.  la57, nested (SVM), maxphyaddr: what CPUID offers.
    save_to: file for a snapshot after `snapshot_at` instructions.  poll_input(seconds) -> bytes typed, waiting at most
    so long.  cpus: number of vCPUs; quantum: guest instructions that each runs in its turn.  on_rows is then called with
    (rows, cpu=number).
    """
    made = {"memory_size": image.memory_size, "platform": image.platform, "mmu": options.get("mmu", "shadow"),
            "rules": options.get("rules", DEFAULT), "profile": options.get("profile", AMD).name,
            "la57": options.get("la57", False), "maxphyaddr": options.get("maxphyaddr"), "name": image.name}
    vm, machine = machine_for(image.memory_size, image.platform,
                              on_snapshot=lambda m: snapshot.save(m, save_to, made), **options)
    machine.poll_input = poll_input
    machine.load(image)
    return Session(vm, machine.run(), machine.registers())


#: How a snapshot says that its machine was made, and what may be chosen anew when it goes on.
MADE = ("mmu", "rules", "la57", "maxphyaddr")


def resume(path, *, poll_input=None, **options) -> Session:
    """Go on with a snapshot.  options: on_output, on_rows, timeout, max_instructions, progress.  Raises EngineError."""
    header, parts = snapshot.read(path)
    try:
        made = header["made"]
        chosen = {name: made[name] for name in MADE}
        vm, machine = machine_for(made["memory_size"], made["platform"], profile=PROFILES[made["profile"]], **chosen, **options)
    except (KeyError, TypeError, ValueError) as error:
        raise GuestImageError(path, f"the snapshot's machine cannot be made ({error})") from None
    machine.poll_input = poll_input
    snapshot.apply(machine, path, parts)
    machine.start_restored()
    machine.go_on()
    return Session(vm, machine.finish(), machine.registers())
