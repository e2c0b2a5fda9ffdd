"""Fail unless the archgrad that is installed has its compiled kernels."""

import sys

from archgrad.fast.native import instruction_set

level = instruction_set()
print(f"kernels: {level}")
sys.exit(0 if level else "The wheel has no compiled kernels.")
