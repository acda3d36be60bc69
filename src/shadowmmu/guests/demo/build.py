# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the demo guest: ``python3 build.py [OUTPUT]`` writes demo.elf, the same bytes every time.

Nothing of the build place or time enters the image: no build id, no comments, no paths.  The
symbols stay: `run --lockstep` names places by them.
``BUILT_WITH`` names the tools of the committed demo.elf; other versions may give other bytes.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT_WITH = {"gcc": "12", "ld": "2.40"}  # major version of gcc, version of binutils

KERNEL = ("boot.S", "entry.S", "console.c", "frames.c", "paging.c", "memory.c", "process.c", "trap.c", "smp.c", "main.c")
USER = ("user_entry.S", "user.c")
COMMON_FLAGS = (
    "-m64", "-march=x86-64", "-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding",
    "-fno-pic", "-fno-pie", "-mgeneral-regs-only", "-mno-red-zone", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-common",
    "-fno-tree-loop-distribute-patterns", "-fno-strict-aliasing",
)  # fmt: skip
MODEL = {**dict.fromkeys(KERNEL, "-mcmodel=kernel"), **dict.fromkeys(USER, "-mcmodel=small")}


def tool_versions() -> dict[str, str]:
    """Return the versions that decide about the bytes, or {} if a tool is missing.

    Returns:
        ``{"gcc": major, "ld": major.minor}``.
    """
    if not all(map(shutil.which, ("gcc", "ld", "objcopy"))):
        return {}
    gcc = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    ld = subprocess.run(["ld", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {"gcc": gcc.split(".")[0].strip(), "ld": ".".join(re.findall(r"\d+", ld.split()[-1])[:2])}


def build(output: Path) -> None:
    """Compile, link and convert the guest.

    Args:
        output: path of the ELF32 file to write.

    Raises:
        subprocess.CalledProcessError: a tool failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for name in KERNEL + USER:
            target = Path(scratch, Path(name).stem + ".o")
            subprocess.run(["gcc", *COMMON_FLAGS, MODEL[name], "-c", name, "-o", target], cwd=HERE, check=True)
            objects.append(target.name)
        elf64 = Path(scratch, "demo64.elf")
        link = ["ld", "-m", "elf_x86_64", "-nostdlib", "--build-id=none", "-z", "max-page-size=4096", "-z", "norelro"]
        link += ["--no-warn-rwx-segments", "-T", HERE / "demo.lds", "-o", elf64]
        subprocess.run([*link, *objects], cwd=scratch, check=True)
        # Multiboot loaders take ELF32 only; the load addresses are below 4 GiB, so nothing is lost but the upper half of
        # the symbols' values.
        subprocess.run(["objcopy", "--strip-debug", "-O", "elf32-i386", elf64, output], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "demo.elf")
