# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo guest: sources, build script and the prebuilt image."""

from pathlib import Path

IMAGE = Path(__file__).resolve().parent / "demo.elf"
