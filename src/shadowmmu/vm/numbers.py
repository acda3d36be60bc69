# SPDX-License-Identifier: GPL-2.0-or-later
"""Register values: unsigned for people, signed 64-bit words in the core."""

U64 = (1 << 64) - 1


def signed(value):
    """A 64-bit register value as the core's signed word."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value
