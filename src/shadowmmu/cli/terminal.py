# SPDX-License-Identifier: GPL-2.0-or-later
"""What is typed while a guest runs: standard input goes to the serial port, a terminal in raw mode.

Ctrl-C and other signals keep their meaning for shadowmmu itself (ISIG stays on); the terminal's settings come back
at the end, whatever the end is.
"""

import os
import select
import sys

try:
    import termios
except ImportError:     # not a Unix
    termios = None      # type: ignore[assignment]


class Input:
    """Context manager.  `poll(seconds)` returns the bytes typed, waiting at most so long, or b"" for none."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdin
        self.saved = None
        self.open = False

    def __enter__(self):
        try:
            self.descriptor = self.stream.fileno()
            self.open = termios is not None and os.isatty(self.descriptor)
        except (AttributeError, OSError, ValueError):
            return self
        if self.open:
            self.saved = termios.tcgetattr(self.descriptor)
            raw = termios.tcgetattr(self.descriptor)
            raw[3] &= ~(termios.ICANON | termios.ECHO)
            raw[0] &= ~(termios.ICRNL | termios.IXON)
            raw[6][termios.VMIN], raw[6][termios.VTIME] = 0, 0
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, raw)
        return self

    def __exit__(self, *_):
        if self.saved is not None:
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.saved)

    def poll(self, seconds):
        """Bytes typed so far; waits up to `seconds` for the first.  None when nobody can type."""
        if not self.open:
            return None
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return b""
        return os.read(self.descriptor, 1024)
