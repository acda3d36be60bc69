# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a VM as a person handles it."""


class VmError(Exception):
    """The VM cannot do what was asked; the message says what and why."""


class GuestFault(Exception):
    """A guest access raised an exception: `vector`, `error_code` (or None), `address` (CR2 for #PF)."""

    def __init__(self, vector, error_code, address):
        self.vector, self.error_code, self.address = vector, error_code, address
        code = "" if error_code is None else f" error code {error_code:#x}"
        super().__init__(f"guest exception, vector {vector}{code} at {address:#x}")


class NestedExit(Exception):
    """An access of L2 left it for L1; L1 runs now.

    kind: "exception" (one that L1 intercepts), "nested page fault" (of L1's NPT), "EPT violation", "EPT misconfiguration",
    "shutdown".  vector, error_code, address: of the exception, or of the nested page fault (address is then L2-physical).
    qualification: of an EPT violation.
    """

    qualification = 0

    def __init__(self, kind, vector, error_code, address):
        self.kind, self.vector, self.error_code, self.address = kind, vector, error_code, address
        super().__init__(f"exit of L2: {kind}, error code {error_code:#x} at {address:#x}")
