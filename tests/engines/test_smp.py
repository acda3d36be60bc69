# SPDX-License-Identifier: GPL-2.0-or-later
"""Two vCPUs: start-up, IPIs, TLB shootdown, remote flushes, code changed by the other CPU, turns."""

import hashlib
import struct

import pytest

from shadowmmu.cli import run_command
from shadowmmu.cli.errors import UsageError
from shadowmmu.engines.unicorn_svm import exits as svm
from shadowmmu.guests import multiboot, session
from shadowmmu.guests.demo import IMAGE
from shadowmmu.guests.image import DescriptorTable, GuestImage
from shadowmmu.mmu import events

from . import guest_code as g
from . import smp_code as c

MMUS = ("shadow", "none", "tdp", "tdp-legacy")
IDT, APIC_PD, OTHER, LOOP = 0x2000, 0x15000, 0xA000, 0xA030
IPI, NMI, GP = 0x40, 2, 13
OLD, NEW = 0x11, 0x22
CONTROLS = 0x20 | 0x600


def gate(handler):
    """64-bit interrupt gate."""
    return struct.pack("<HHBBHII", handler & 0xFFFF, 0x18, 0, 0x8E, handler >> 16, 0, 0)


def machine_code(first, loop=c.SLEEP, *, handlers=(), segments=()):
    """A PC guest: `first` runs on CPU 0, `loop` on CPU 1 once it is in 64-bit mode; handlers: {vector: (address, code)}."""
    assert OTHER + len(c.OTHER_BEGINS) <= LOOP
    idt = [(IDT + 16 * vector, gate(at)) for vector, (at, _) in handlers]
    pointers = ((0x9F00, struct.pack("<HI", 0xFF, 0x1000)), (0x9F10, struct.pack("<HQ", 0xFFF, IDT)))
    more = ((0x9000, c.TRAMPOLINE), (OTHER, c.OTHER_BEGINS.ljust(LOOP - OTHER, b"\x90") + loop), *pointers, *idt,
            *((at, data) for _, (at, data) in handlers),
            (g.PDPT + 24, struct.pack("<Q", APIC_PD | 7)), (APIC_PD + 8 * 0x1F7, struct.pack("<Q", 0xFEE00000 | 0x9B)),
            (0x200000, struct.pack("<Q", OLD)), (0x201000, struct.pack("<Q", NEW)), *segments)
    image = g.image(first, segments=more, idt=DescriptorTable(IDT, 0xFFF))
    return GuestImage(image.name, image.memory_size, image.segments, image.entry, "pc")


def run(image, **options):
    """The finished session; the guest must have ended by itself."""
    out = session.run(image, **{"cpus": 2, "timeout": 60, **options})
    assert out.report.reason == "exit", out.report.text
    return out


IPIS = machine_code(c.START_OTHER + c.SEND, handlers=((IPI, (0xB100, c.HANDLER_IPI)), (NMI, (0xB200, c.HANDLER_NMI))))


@pytest.mark.parametrize("mmu", MMUS)
def test_start_up_ipi_nmi_and_shorthand(mmu):
    out = run(IPIS, mmu=mmu)
    # APIC ID 0, two IPIs (one to APIC 1, one to all but self), one NMI
    assert out.report.exit_code == 3
    assert out.report.exits["HLT"] >= 2


@pytest.mark.parametrize("mmu", MMUS)
def test_who_spins_for_an_answer_does_not_spin_for_its_whole_turn(mmu):
    """Three answers without PAUSE, turns of a million."""
    send = c.SEND.replace(b"\xf3\x90", b"\x90\x90")
    image = machine_code(c.START_OTHER + send, handlers=((IPI, (0xB100, c.HANDLER_IPI)), (NMI, (0xB200, c.HANDLER_NMI))))
    out = run(image, mmu=mmu, quantum=1_000_000)
    assert out.report.exit_code == 3 and out.report.instructions < 10_000


def test_a_run_repeats_exactly():
    found = []
    for _ in range(2):
        digest, cpus = hashlib.blake2b(), set()

        def note(rows, cpu=0, digest=digest, cpus=cpus):
            digest.update(repr([tuple(row) for row in rows]).encode())
            if rows:
                cpus.add(cpu)

        out = run(IPIS, on_rows=note)
        assert cpus == {0, 1}
        found.append((out.report.instructions, digest.hexdigest(), out.registers))
    assert found[0] == found[1]


def shootdown(*middle):
    """CPU 1 reads a page for ever, CPU 0 gives its address another frame."""
    return machine_code(c.START_OTHER + c.WAIT_TWO_READS + c.CHANGE_PTE + b"".join(middle) + c.WAIT_TWO_READS + c.REPORT,
                        c.READ_LOOP, handlers=((IPI, (0xB100, c.HANDLER_SHOOTDOWN)),))


@pytest.mark.parametrize("quantum", [300, 100_000])
@pytest.mark.parametrize("mmu", MMUS)
def test_after_a_shootdown_nobody_reads_the_old_frame(mmu, quantum):
    out = run(shootdown(c.SEND_SHOOTDOWN), mmu=mmu, quantum=quantum)
    assert out.report.exit_code == NEW and out.report.exits["PAUSE"] > 0


@pytest.mark.parametrize("mmu", ["shadow", "none"])
def test_a_forgotten_shootdown_shows(mmu):
    """SDM vol. 3 4.10.4.4: the other CPU may use what it has cached; here it does: with shadow paging the table is out of
    sync, without the CPU has a TLB of its own, which turns do not empty."""
    assert run(shootdown(), mmu=mmu).report.exit_code == OLD


def test_a_flush_of_the_mmu_reaches_a_vcpu_in_the_guest():
    """INVLPG on CPU 0 drops the shared spte: CPU 1 is kicked out and flushes before it runs again."""
    rows = []
    out = run(shootdown(c.LOCAL_FLUSH), on_rows=lambda found, cpu=0: rows.extend((cpu, *row) for row in found), quantum=300)
    assert out.report.exit_code == NEW
    assert out.vm.stat["remote_tlb_flush"] > 0
    kicks = [at for at, row in enumerate(rows) if row[1:4] == (events.EXIT, 1, svm.INTR)]
    assert kicks and all(rows[at][0] == 1 for at in kicks)
    # between the kick and the next instruction of CPU 1: its entry
    assert all(next(row for row in rows[at + 1:] if row[0] == 1)[1] == events.ENTRY for at in kicks)
    assert out.vm.vcpus[1].stat["tlb_flush"] > 0


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("mmu", MMUS)
def test_code_that_the_other_cpu_changes(mmu, alias):
    """Twice: the second store goes through a TLB entry that has stored to the page before."""
    to = b"\xbb" + struct.pack("<I", 0x300400 if alias else 0xB400)      # mov ebx, ...
    body = c.WAIT_TWO_READS + to + c.PATCH + c.WAIT_TWO_READS + c.PATCH_AGAIN + c.WAIT_TWO_READS + c.REPORT
    no_execute = (g.PT1 + 8 * 0x100, struct.pack("<Q", 0xB000 | 7 | 1 << 63))
    image = machine_code(c.START_OTHER + body, c.CALL_LOOP, segments=((0xB400, c.PATCHED), no_execute))
    assert run(image, mmu=mmu).report.exit_code == 10


def test_registers_are_a_vcpus_own():
    """General registers, debug registers with their breakpoints, MSRs, a queued event, intercepts."""
    _, machine = session.machine_for(g.MEMORY, "pc", cpus=3)
    hw, lstar = machine.hardware, 0xC0000082
    for number in range(3):
        machine.processors.select(number)
        hw.gpr[3], hw.rip = 100 + number, 0x1000 * number
        hw.write_dr(0, 0x2000 * number)
        hw.write_dr(7, 0x401 if number == 1 else 0x400)
        hw.write_msr(lstar, number)
        hw.intercept(svm.IRET, number == 2)
        if number == 1:
            hw.queue_event(0x30, "interrupt")
    for number in (1, 0, 2, 0, 1):
        machine.processors.select(number)
        assert (hw.gpr[3], hw.rip, hw.dr[0]) == (100 + number, 0x1000 * number, 0x2000 * number)
        assert hw.dr[7] == (0x401 if number == 1 else 0x400) and hw.read_msr(lstar) == number
        assert hw.event_queued == (number == 1) and hw.intercepted(svm.IRET) == (number == 2)


def test_turns_are_of_equal_length():
    image = machine_code(c.START_OTHER + c.COUNT_LOOP, c.COUNT_LOOP_OTHER)
    out = session.run(image, cpus=2, quantum=10_000, max_instructions=1_000_000)
    assert out.report.reason == "limit"
    counts = [int.from_bytes(out.vm.read_gpa(at, 8), "little") for at in (0x7120, 0x7128)]
    assert sum(counts) > 480_000 and abs(counts[0] - counts[1]) < 20_000


def test_each_vcpu_waits_for_its_start():
    """INIT only: CPU 1 never runs."""
    image = machine_code(c.START_OTHER[:25] + c.COUNT_LOOP, c.COUNT_LOOP_OTHER)
    out = session.run(image, cpus=2, max_instructions=100_000)
    assert int.from_bytes(out.vm.read_gpa(0x7128, 8), "little") == 0
    assert int.from_bytes(out.vm.read_gpa(0x7120, 8), "little") > 40_000


@pytest.mark.parametrize("options, words", [
    ({"vcpus": 0}, "from 1 to 16"), ({"vcpus": 17}, "from 1 to 16"), ({"vcpus": 2, "nested": True}, "without --nested"),
    ({"vcpus": 2, "in_lockstep": True}, "without --nested"), ({"quantum": 5}, "goes with --vcpus"),
    ({"vcpus": 2, "snapshot_file": "x", "snapshot_at": 1}, "without --nested"), ({"vcpus": 2, "quantum": 0}, "positive")])
def test_what_several_vcpus_cannot_do_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        run_command.main(rules="linux-6.12", mmu="shadow", profile="amd", **options)


# The demo kernel -----------------------------------------------------------------------------------------------

MEMORY = 32 << 20


def demo(words="", **options):
    """(console lines, session) of the demo kernel."""
    image = multiboot.load(IMAGE, f"demo {words}", [], MEMORY, "pcid" in words.split())
    out = bytearray()
    outcome = session.run(image, on_output=out.extend, timeout=100, **options)
    assert outcome.report.reason == "exit" and outcome.report.exit_code == 0, outcome.report.text
    return out.decode().splitlines(), outcome


@pytest.mark.parametrize("words, options", [
    ("", {}), ("", {"mmu": "none"}), ("", {"mmu": "tdp"}), ("pcid", {"cpus": 3}), ("timer", {"cpus": 4, "mmu": "tdp-legacy"}),
    ("la57", {"la57": True, "quantum": 20_000})])
def test_demo_on_several_cpus_ends_with_the_same_checksum(words, options):
    more = {"la57": True} if words == "la57" else {}
    alone, _ = demo(words, mmu="none", **more)
    lines, outcome = demo(words, **{"cpus": 2, **options})
    assert lines[-1] == alone[-1] and lines[-1].startswith("DEMO OK ")
    assert "smp: 24 rounds of another frame at one address, 0 stale reads" in lines
    switches = next(line for line in lines if line.startswith("total cpus")).split("switches ")[1].split()
    assert len(switches) == len(outcome.vm.vcpus) and all(int(count) > 0 for count in switches[:2])


def test_demo_repeats_exactly():
    (lines, first), (again, second) = demo(cpus=2), demo(cpus=2)
    assert lines == again and first.report.instructions == second.report.instructions
    assert dict(first.vm.stat.items()) == dict(second.vm.stat.items()) and first.registers == second.registers


@pytest.mark.parametrize("mmu", ["shadow", "none"])
def test_demo_without_the_shootdown_interrupt_reads_stale_data(mmu):
    lines, _ = demo("noshootdown", cpus=2, mmu=mmu)
    line = next(line for line in lines if "stale reads" in line)
    assert int(line.split()[-3]) > 24


# One vCPU ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mmu", MMUS)
def test_nmis_wait_for_iret(mmu):
    """Two NMIs sent while one is handled: none before IRET, and one of them is lost (APM vol. 2 8.5.2)."""
    image = machine_code(c.SELF_NMI, handlers=((NMI, (0xB200, c.HANDLER_SELF_NMI)),))
    assert run(image, mmu=mmu, cpus=1).report.exit_code == 0x201


@pytest.mark.parametrize("name, kind", [("LTR", 0x89), ("LLDT", 0x82)])
@pytest.mark.parametrize("high, expected", [(0x8000, 0x20), (0xFFFF8000, 1), (0x7FFF, 1)])
def test_bases_must_be_canonical(name, kind, high, expected):
    """#GP with the selector as error code for a base that is not (SDM vol. 2, LTR, LLDT)."""
    descriptor = struct.pack("<QQ", 0x67 | kind << 40, high)
    image = machine_code(getattr(c, name), handlers=((GP, (0xB300, c.HANDLER_GP)),), segments=((0x1020, descriptor),))
    assert run(image, cpus=1).report.exit_code == expected
