# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the demo hypervisor and its guests: ``python3 build.py [FOLDER]`` writes hv.bin, l2_64.bin, l2_pae.bin and their
.cfg files, the same bytes every time.  ``BUILT_WITH`` names the tools of the committed files.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT_WITH = {"gcc": "12", "ld": "2.40"}
FLAGS = ("-march=x86-64", "-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-pic", "-fno-pie",
         "-mgeneral-regs-only", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
         "-fno-common", "-fno-tree-loop-distribute-patterns", "-fno-strict-aliasing", "-mno-red-zone")
#: output -> (bits, sources, definitions)
PARTS = {
    "l2_64": (64, ("l2_start.S", "l2.c"), ("-DL2_64", "-DIDT_LIMIT=511", "-DEFER_BITS=0x900")),
    "l2_pae": (32, ("l2_start.S", "l2.c"), ("-DIDT_LIMIT=255", "-DEFER_BITS=0x800")),
    "hv": (64, ("hv_start.S", "hv.c"), ()),
}
CONFIG = """# demo hypervisor: {text}
name {name}
image {name}.bin
mem {memory:#x}
load 0
mode {mode}
rip 0x8000
rsp 0x5000
cr0 {cr0:#x}
cr3 {cr3:#x}
cr4 {cr4:#x}
efer {efer:#x}
pcid 0
"""


def tool_versions():
    """{"gcc": major, "ld": major.minor}, or {} if a tool is missing."""
    if not all(map(shutil.which, ("gcc", "ld", "objcopy", "nm"))):
        return {}
    gcc = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    ld = subprocess.run(["ld", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {"gcc": gcc.split(".")[0].strip(), "ld": ".".join(re.findall(r"\d+", ld.split()[-1])[:2])}


def _symbol(elf, name):
    text = subprocess.run(["nm", elf], capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"^([0-9a-f]+) \w {name}$", text, re.MULTILINE)[1], 16)


def build(output):
    """Compile and link into the folder `output`.  Raises CalledProcessError; the tool has said why."""
    output = Path(output)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (bits, sources, definitions) in PARTS.items():
            objects = []
            for source in sources:
                target = Path(scratch, f"{name}_{Path(source).stem}.o")
                subprocess.run(["gcc", f"-m{bits}", *FLAGS, *definitions, f"-I{output}", "-Wa,-I" + str(output), "-c", source,
                                "-o", target], cwd=HERE, check=True)
                objects.append(target)
            elf = Path(scratch, name + ".elf")
            subprocess.run(["ld", "-m", "elf_x86_64" if bits == 64 else "elf_i386", "-nostdlib", "--build-id=none",
                            "--no-warn-rwx-segments", "-T", HERE / "flat.lds", "-o", elf, *objects], check=True)
            subprocess.run(["objcopy", "-O", "binary", "--gap-fill", "0", elf, output / f"{name}.body"], check=True)
            body = (output / f"{name}.body").read_bytes()
            (output / f"{name}.body").unlink()
            (output / f"{name}.bin").write_bytes(bytes(0x1000) + body)
            values = {"name": name, "mode": "pm32", "memory": 4 << 20, "cr0": 0x11, "cr3": 0, "cr4": 0, "efer": 0,
                      "text": f"its {bits}-bit guest, to run alone"}
            if name == "hv":
                values |= {"mode": "lm64", "memory": 16 << 20, "cr0": 0x80010011, "cr3": _symbol(elf, "l1_root"), "cr4": 0x20,
                           "efer": 0xD00, "text": "L1"}
            (output / f"{name}.cfg").write_text(CONFIG.format(**values))


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else HERE)
