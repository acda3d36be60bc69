# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo guest: the committed image is what the sources give, and it computes what the model says."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmmu.guests import multiboot, platform
from shadowmmu.guests.demo import IMAGE

sys.path.insert(0, str(Path(__file__).parent))
import demo_model

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(not QEMU, reason="qemu-system-x86_64 is not installed: the demo was not executed")


def _builder():
    spec = importlib.util.spec_from_file_location("demo_build", IMAGE.parent / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rebuild_gives_the_committed_bytes(tmp_path):
    builder = _builder()
    versions = builder.tool_versions()
    if versions != builder.BUILT_WITH:
        pytest.skip(f"tools {versions or 'missing'} are not {builder.BUILT_WITH}: rebuild not compared")
    builder.build(tmp_path / "demo.elf")
    assert (tmp_path / "demo.elf").read_bytes() == IMAGE.read_bytes()


def test_image_holds_no_trace_of_its_build():
    contents = IMAGE.read_bytes()
    assert len(contents) < 64 << 10
    for trace in (b"GCC:", b"/home", b"/work", b"/tmp", b".note"):
        assert trace not in contents


def test_image_loads():
    image = multiboot.load(IMAGE, "procs=6", memory_size=16 << 20)
    assert image.platform == "pc"
    assert all(gpa + len(data) <= 2 << 20 for gpa, data in image.segments)


def _run(arguments, cpu="max"):
    command = [QEMU, "-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio", "-m", "64", "-cpu", cpu]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(IMAGE), "-append", arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout[-500:]  # (code 0 << 1) | 1
    return done.stdout.replace("\r", "")


def _checksum(output):
    return int(re.search(r"^DEMO OK ([0-9a-f]{16})$", output, re.M)[1], 16)


@needs_qemu
@pytest.mark.parametrize(
    "arguments, processes, rounds, la57",
    [
        ("", 8, 4, False),
        ("procs=6 rounds=1", 6, 1, False),
        ("procs=24 rounds=12", 24, 12, False),
        ("timer procs=16 rounds=20", 16, 20, False),
        ("la57", 8, 4, True),
        ("la57 timer procs=9 rounds=9", 9, 9, True),
        ("procs=1 rounds=0", 6, 1, False),
        ("procs=99 nonsense= pcidx timers", 24, 4, False),
    ],
)
def test_checksum_is_the_models(arguments, processes, rounds, la57):
    assert _checksum(_run(arguments)) == demo_model.checksum(processes, rounds, la57)


@needs_qemu
def test_output_is_the_same_on_every_cpu_and_every_time():
    first = _run("procs=10")
    assert first == _run("procs=10") == _run("procs=10", cpu="EPYC")


@needs_qemu
def test_log_shows_the_work():
    output = _run("procs=8 rounds=4")
    totals = {name: int(value) for name, value in re.findall(r"([a-z0-9]+) (\d+)", output[output.index("total ") :])}
    # 8 workers, 1 partner of `shared`, 14 descendants of each of 4 trees
    assert totals["forks"] == 8 + 1 + 4 * 14
    assert totals["large"] == 2 * 4 and totals["splits"] == 4
    assert totals["ticks"] == 0 and totals["noflush"] == 0
    assert len(re.findall(r"^exit ", output, re.M)) == totals["forks"] + 1
    assert totals["copied"] > 100 and totals["recycled"] > 100 and totals["invlpg"] > 1000


def test_loader_and_platform_bring_the_kernel_up_on_an_emulator():
    """Plain Unicorn delivers no exceptions, so the run ends at the first user instruction's #PF."""
    unicorn = pytest.importorskip("unicorn", reason="unicorn is not installed")
    x86 = pytest.importorskip("unicorn.x86_const")
    image = multiboot.load(IMAGE, "procs=7 rounds=5", memory_size=32 << 20)
    output = bytearray()
    machine = platform.make(image.platform, image.memory_size, on_output=output.extend)
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
    uc.mem_map(0, image.memory_size)
    for gpa, contents in image.segments:
        uc.mem_write(gpa, contents)
    for name, value in image.entry.gprs.items():
        uc.reg_write(getattr(x86, f"UC_X86_REG_{name.replace('r', 'e').upper()}"), value)

    def port_in(uc, port, size, user_data):
        return machine.io_read(port, size)

    def port_out(uc, port, size, value, user_data):
        machine.io_write(port, size, value)

    uc.hook_add(unicorn.UC_HOOK_INSN, port_in, None, 1, 0, x86.UC_X86_INS_IN)
    uc.hook_add(unicorn.UC_HOOK_INSN, port_out, None, 1, 0, x86.UC_X86_INS_OUT)
    with pytest.raises(unicorn.UcError, match="CPU exception"):
        uc.emu_start(image.entry.rip, 0)
    expected = "demo kernel: 4-level paging, pcid off, timer off, procs 7, rounds 5, memory 32768 KiB\n"
    assert output.decode() == expected
    assert machine.exit_code is None
