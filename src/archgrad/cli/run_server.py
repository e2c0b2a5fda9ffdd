"""`python -m archgrad.cli.run_server`: forks the runs of a study, which begin without importing anything."""

import sys
from pathlib import Path

import torch
import torch.utils.tensorboard

import archgrad.cli.random_search_command
import archgrad.cli.retrain_command
import archgrad.cli.search_command
import archgrad.report.raster  # noqa: F401  # draws what loggers show
from archgrad.cli import main
from archgrad.study.forks import serve


def run(arguments: list[str]) -> int:
    """Run `archgrad` with these arguments; return its exit status."""
    sys.argv = [str(Path(__file__).parents[1] / "__main__.py"), *arguments]
    torch.seed()  # what nobody seeds differs between runs, as it does between processes that start by themselves
    return main()


if __name__ == "__main__":
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)  # torch loads its compiler with the first optimizer
    serve(run)
