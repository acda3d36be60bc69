# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception of this room: a file is not what it should be, said in one line.

    TraceError("trace.dat: page header: the file ends at byte 4123 (wanted 4096 more)")
                ^ where      ^ what
"""


class TraceError(Exception):
    """A trace, a dump or a recorded run cannot be read.  `str()` is one line: where, what."""

    def __init__(self, what, where=""):
        text = " ".join(f"{where}: {what}".split() if where else str(what).split())
        super().__init__(text)
