# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu bench guests`: guests on the shadow MMU against the same engine on its own MMU.

    hits    64-bit code that loads, computes and stores on 64 pages, again and again: after the first round every
            access is a hit, so this is the cost of being translated by our tables
    demo    the demo kernel: forks, page faults, CR3 loads, PTE writes

The two sides run one after the other, `rounds` times; the best of each counts.  Seconds are of the process's CPU
time, so a busy machine disturbs less.
"""

import argparse
import json
import struct
import time
from dataclasses import replace

from ..guests import boot_params, session
from ..guests.demo import IMAGE
from ..guests.image import GuestImage

MEMORY = 64 << 20
CODE_AT, DATA_AT = 0x100000, 0x2000000
NX, NXE = 1 << 63, 1 << 11
#: 48c7c1 MOV $rounds, %rcx; then per round: %rsi = DATA_AT, %rdx = 64; load, xor, add, store, next page
LOOP = bytes.fromhex("48c7c6 00000002 48c7c2 40000000 488b06 4831c8 4801f8 488906 4881c600100000 48ffca 75e8 48ffc9 75d5")
OFF = bytes.fromhex("66ba0406 66b80034 66ef f4")


def hit_image(rounds):
    """The guest "hits": data pages are not executable, as in any kernel of today."""
    at, tables = boot_params.identity_tables()
    entries = list(struct.unpack(f"<{len(tables) // 8}Q", tables))
    first = 2 * 512 + (DATA_AT >> 21)
    entries[first:first + 4] = [entry | NX for entry in entries[first:first + 4]]
    state, gdt = boot_params.entry64(CODE_AT)
    code = b"\x48\xc7\xc1" + struct.pack("<I", rounds) + LOOP + OFF
    segments = ((at, struct.pack(f"<{len(entries)}Q", *entries)), gdt, (CODE_AT, code))
    return GuestImage("hits", MEMORY, segments, replace(state, efer=state.efer | NXE), "pc")


def measure(image, mmu):
    """One run: instructions, faults, exits, CPU seconds."""
    vm, machine = session.machine_for(image.memory_size, image.platform, mmu=mmu)
    machine.load(image)
    start = time.process_time()
    report = machine.run()
    seconds = time.process_time() - start
    if report.reason != "exit" or report.exit_code:
        raise SystemExit(f"shadowmmu: benchmark guest {image.name} on --mmu {mmu}: {report.text}")
    return {"instructions": report.instructions, "faults": report.exits["#PF"], "exits": sum(report.exits.values()),
            "seconds": seconds}


def command(arguments):
    """Body of `shadowmmu bench guests`."""
    parser = argparse.ArgumentParser(prog="shadowmmu bench guests", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, the best counts (default 3)")
    parser.add_argument("--hits", type=int, default=300000, help="how often `hits` goes over its pages (default 300000)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 1 <= options.hits < 1 << 31:
        parser.error("--rounds and --hits must be positive")
    results = []
    for image in (hit_image(options.hits), session.load(IMAGE)):
        sides = {"shadow": [], "none": []}
        for _ in range(options.rounds):
            for mmu, runs in sides.items():
                runs.append(measure(image, mmu))
        best = {mmu: min(runs, key=lambda run: run["seconds"]) for mmu, runs in sides.items()}
        ratio = (best["shadow"]["instructions"] / best["shadow"]["seconds"]
                 / (best["none"]["instructions"] / best["none"]["seconds"]))
        results.append({"guest": image.name, "ratio": ratio, **best})
    if options.json:
        print(json.dumps(results, indent=2))
        return 0
    print(f"{'guest':<10}{'mmu':<8}{'M instr/s':>10}{'faults/s':>12}{'exits/s':>12}{'seconds':>9}{'ratio':>8}")
    for row in results:
        for mmu in ("shadow", "none"):
            run = row[mmu]
            rates = [run[name] / run["seconds"] for name in ("faults", "exits")]
            ratio = f"{row['ratio']:>8.2f}" if mmu == "shadow" else ""
            print(f"{row['guest']:<10}{mmu:<8}{run['instructions'] / run['seconds'] / 1e6:>10.1f}{rates[0]:>12,.0f}"
                  f"{rates[1]:>12,.0f}{run['seconds']:>9.2f}{ratio}")
    return 0
