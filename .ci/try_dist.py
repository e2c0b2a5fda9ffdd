"""Look into what `make dist` built: the wheel has the kernels and runs from outside, the source archive builds again.

The packages that archgrad needs are taken from the environment that runs this, so that nothing is downloaded.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LOOK = "import archgrad; from archgrad.fast.native import instruction_set; print(archgrad.__file__, instruction_set())"


def run(*command: str, folder: Path, **variables: str) -> str:
    """Run a program in a folder, and return what it prints."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def unpacked(wheel: Path, folder: Path) -> Path:
    """Unpack a wheel, which is all that an installation without scripts does."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    """Return the one file of this form."""
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"{folder} has {[file.name for file in found]} for {pattern}"
    return found[0]


def looked_at(wheel: Path, folder: Path) -> str:
    """Return where archgrad is imported from, and its kernels, with the wheel first on the path."""
    where = unpacked(wheel, folder)
    said = run(sys.executable, "-c", LOOK, folder=folder, PYTHONPATH=str(where))
    assert said.startswith(str(where)), said
    return said.split()[-1]


def main() -> None:
    """Try both files."""
    dist = Path(sys.argv[1]).resolve()
    wheel, source = only(dist, "*.whl"), only(dist, "*.tar.gz")
    build = "import setuptools.build_meta as b; b.build_wheel('out')"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        level = looked_at(wheel, folder / "wheel")
        assert level != "None", f"{wheel.name} has no compiled kernels: is there a C++ compiler with OpenMP?"
        print(f"{wheel.name}: kernels for {level}")
        for name, compilers in (("with", {}), ("without", {"CC": "false", "CXX": "false"})):
            with tarfile.open(source) as archive:  # a folder each, since a build leaves its objects behind
                archive.extractall(folder / name, filter="data")
            project = folder / name / source.name.removesuffix(".tar.gz")
            run(sys.executable, "-c", build, folder=project, **compilers)
            level = looked_at(only(project / "out", "*.whl"), folder / f"{name}-wheel")
            assert (level == "None") == bool(compilers), f"{source.name} {name} a compiler: kernels for {level}"
            print(f"{source.name}: {name} a compiler it builds a wheel with kernels for {level}")


main()
