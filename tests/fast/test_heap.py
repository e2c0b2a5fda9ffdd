"""The setting of the C library, each time in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from archgrad.fast.malloc import keep_freed_memory
import torch
def taken():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = taken()
assert keep_freed_memory()
assert taken() - before < 2**24, "it took memory"
x = torch.ones(2**24)  # 64 MB
y = torch.ones(2**24)
with_both = taken()
del x, y
assert taken() > with_both - 2**22, "freed memory was given back"
assert float(torch.ones(2**24).sum()) == 2**24
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize("limit", [None, 12 * 2**30], ids=["unlimited", "few addresses"])
def test_freed_memory_is_kept_and_none_is_taken_before(limit):
    typed = [] if limit is None else [str(limit)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
