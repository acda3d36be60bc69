# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual machine around the MMU: registers, requests, entry and exit, memory, and the Python classes."""

from .errors import GuestFault, NestedExit, VmError
from .guest_hypervisor import GuestHypervisor
from .machine import Memslot, Root, ShadowPage, Vcpu, Vm

__all__ = ["GuestFault", "GuestHypervisor", "Memslot", "NestedExit", "Root", "ShadowPage", "Vcpu", "Vm", "VmError"]
