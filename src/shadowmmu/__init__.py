# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's x86 shadow MMU as an executable Python system."""

__version__ = "0.1.0"
