# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user sees when a core function cannot be compiled."""


class CoreError(Exception):
    """A core function uses something that the core does not have; the message says what and where."""
