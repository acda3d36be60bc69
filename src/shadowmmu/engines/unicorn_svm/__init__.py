# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guest code on Unicorn 2.1.4, used as AMD SVM hardware.

`hardware.SvmHardware` is the processor; `exits` lists what it reports; `decode` reads the instruction behind
an exit; `stepper.InstructionStepper` executes one instruction whose memory accesses the MMU performs.
"""

from .errors import EngineError

__all__ = ["EngineError"]
