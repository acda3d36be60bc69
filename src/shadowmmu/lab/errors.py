# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a benchmark or an experiment."""


class BenchError(Exception):
    """The benchmark cannot run as asked, or two ways of running disagree; one line for the user."""


class LabError(Exception):
    """An experiment cannot run as asked, or its guest behaves differently where it must not; one line for the user."""


class LimitMissing(Exception):
    """There is no C side; the message is what the table shows instead of figures."""
