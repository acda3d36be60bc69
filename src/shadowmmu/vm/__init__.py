# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual machine around the MMU: registers, requests, entry and exit, memory, and the Python classes."""

from .machine import GuestFault, Memslot, Root, ShadowPage, Vcpu, Vm, VmError

__all__ = ["GuestFault", "Memslot", "Root", "ShadowPage", "Vcpu", "Vm", "VmError"]
