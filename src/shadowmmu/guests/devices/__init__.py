# SPDX-License-Identifier: GPL-2.0-or-later
"""The platform's devices, one file each.

Every device keeps all it remembers in ``state``, a dataclass of plain values, and reacts to
``read``/``write`` only; it knows no other device. Wires (interrupt lines, the clock) are laid by
`shadowmmu.guests.platform`.
"""
