"""Build the compiled kernels for the CPU; what else there is to say about the package is in pyproject.toml.

They need a C++ compiler with OpenMP, as GCC on Linux is. Without one the package installs all the same, and computes
with PyTorch's own operations.
"""

import sys

from setuptools import Extension, setup

NATIVE = "src/archgrad/fast/native"
HEADERS = (
    *("ahead", "channels", "gather", "grids", "inverted", "inverted_back", "job", "level", "pools"),
    *("stages", "storage", "taps", "tiles", "vectors", "weave", "wide", "winograd"),
)

kernels = Extension(
    "archgrad.fast.native._kernels",
    [f"{NATIVE}/kernels.cpp"],
    depends=[f"{NATIVE}/{name}.hpp" for name in HEADERS],
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fopenmp", "-fno-exceptions", "-fno-rtti", "-Wno-psabi"],
    extra_link_args=["-fopenmp"],
    language="c++",
    optional=True,
    py_limited_api=True,  # it uses nothing of Python's, so that one file serves all versions
)

setup(
    ext_modules=[kernels] if sys.platform == "linux" else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
