# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo hypervisor: its guests end with the memory and the output that they have alone."""

import pytest

from shadowmmu.guests import hypervisor, session
from shadowmmu.guests.hypervisor import build


def run(config, **options):
    """(session, lines of output)"""
    output = bytearray()
    outcome = session.run(session.load(config), on_output=output.extend, timeout=120, **options)
    assert outcome.report.reason == "exit" and outcome.report.exit_code == 0, outcome.report.text
    assert outcome.vm.warning is None
    return outcome, output.decode().splitlines()


def checksum(memory):
    """The hypervisor's: FNV-1a over 32-bit words."""
    h = 2166136261
    for at in range(0, len(memory), 4):
        h = (h ^ int.from_bytes(memory[at:at + 4], "little")) * 16777619 & 0xFFFFFFFF
    return h


@pytest.fixture(scope="module")
def alone():
    """Name -> (output without the end, memory) of each guest run by itself."""
    found = {}
    for name, config in hypervisor.GUESTS.items():
        outcome, lines = run(config)
        assert lines[-1] == "EXIT 0" and len(lines) > 30
        found[name] = lines[:-1], outcome.vm.read_gpa(0, hypervisor.L2_SIZE)
    return found


def test_the_guests_differ_only_in_their_mode(alone):
    assert alone["64"][0] == alone["pae"][0]
    assert alone["64"][1] != alone["pae"][1]


@pytest.mark.parametrize("mmu", ["shadow", "tdp", "tdp-legacy"])
def test_guests_of_the_hypervisor_end_as_alone(alone, mmu):
    """Cases 1 and 2: the hypervisor's shadow paging; 3 and 4: nested paging, where the host has it."""
    outcome, lines = run(hypervisor.HYPERVISOR, mmu=mmu, nested=True)
    cases = ["64", "pae"] * (1 if mmu == "shadow" else 2)
    expected = []
    for number, name in enumerate(cases, 1):
        output, memory = alone[name]
        expected += [f"VAL {0x11110000 + number:08x}", *output, "VAL 00000000", f"VAL {checksum(memory):08x}",
                     f"MARK {number}"]
    assert lines == [*expected, "EXIT 0"]
    assert outcome.vm.read_gpa(hypervisor.L2_BASE, hypervisor.L2_SIZE) == alone[cases[-1]][1]
    if mmu != "shadow":
        assert outcome.vm.stat["mmu_page_created"] > 0, "L1's nested tables were shadowed"


def test_the_committed_images_are_what_the_sources_give(tmp_path):
    tools = build.tool_versions()
    if tools != build.BUILT_WITH:
        pytest.skip(f"built with {build.BUILT_WITH}, here is {tools or 'no compiler'}")
    build.build(tmp_path)
    for name in build.PARTS:
        for suffix in (".bin", ".cfg"):
            assert (tmp_path / (name + suffix)).read_bytes() == (hypervisor.HYPERVISOR.parent / (name + suffix)).read_bytes()
