"""Jobs on a cluster, through the scheduler's own queue by submitit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archgrad.errors import OptionError

__all__ = ["Slurm"]


class Slurm:
    """A SLURM cluster. A job that the cluster takes away is resumed when the study is called again.

    Args:
        folder: For the scheduler's own files.
        parameters: Of `submitit.AutoExecutor.update_parameters`; "cluster" chooses another than SLURM.

    Raises:
        OptionError: submitit is not installed.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise OptionError("Jobs of SLURM need submitit. Run: pip install 'archgrad[slurm]'") from None
        parameters = dict(parameters)
        self._executor = submitit.AutoExecutor(folder, cluster=parameters.pop("cluster", "slurm"))
        self._executor.update_parameters(**parameters)
        self._running: list[Any] = []

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *error: object) -> None: ...

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run `archgrad` with these arguments, write its output to the end of a file, and return its exit status."""
        log.parent.mkdir(parents=True, exist_ok=True)
        job = self._executor.submit(_run, [sys.executable, "-m", "archgrad", *arguments], str(log.absolute()))
        self._running.append(job)
        try:
            return int(job.result())
        except Exception as error:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{type(error).__name__}: {error}\n")
            return 1
        finally:
            self._running.remove(job)

    def stop(self) -> None:
        """Cancel what runs; it is resumed from its last checkpoint."""
        for job in list(self._running):
            job.cancel(check=False)


def _run(command: list[str], log: str) -> int:
    with open(log, "ab") as output:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode
