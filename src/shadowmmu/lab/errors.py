# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a benchmark."""


class BenchError(Exception):
    """The benchmark cannot run as asked, or two ways of running disagree; one line for the user."""


class LimitMissing(Exception):
    """There is no C side; the message is what the table shows instead of figures."""
