# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests: what runs on the machine, and the machine's devices.

    file ──(golden | multiboot)──> GuestImage ──> engine + memory
                                       │platform
                                       └────────> platform.make() <── port and MMIO exits

Images are data (`image`), loaders turn files into them (`golden`, `multiboot`), the platform
(`platform`, one device per file in `devices/`) answers every access that is not memory.
"""
