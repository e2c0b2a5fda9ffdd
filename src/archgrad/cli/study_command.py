"""`archgrad study`: a file that says what is compared in, scores and a report out."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.parser import Parser
from archgrad.cli.study_check import check_options, checked, to_text
from archgrad.runs import Interrupted
from archgrad.study import Study, load_study, study
from archgrad.study.continued import goes_on_from
from archgrad.study.jobs import Candidate, candidates_of
from archgrad.study.kept import load_kept
from archgrad.study.study_api import StudyOptions
from archgrad.study.study_tables import to_markdown
from archgrad.terminal import say

__all__ = ["make_parser", "run"]

_FILES = ("keep", "continue_from")


def make_parser() -> Parser:
    """Return the parser: the options of `archgrad.study.study`."""
    parser = Parser("study", COMMANDS["study"], positional="STUDY.yaml ")
    parser.add_argument(
        "plan",
        metavar="STUDY.yaml",
        help="What is compared: methods, spaces, data, seeds, judges. Paths in it are from the working folder.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="Folder of the study. By default runs/ and the file's name; a study that is there goes on.",
    )
    parser.add_argument(
        "--slurm",
        type=dict | None,
        help="Run each process as a job of SLURM, with these parameters of submitit's AutoExecutor as JSON, such as "
        '\'{"slurm_partition": "gpu", "timeout_min": 240}\'. Needs pip install archgrad[slurm].',
    )
    parser.add_argument(
        "--keep",
        type=str | None,
        metavar="FILE.csv",
        help="Write this CSV file as well, also where the study is stopped: one row a score, with all that tables and "
        "pictures are made of, and commit, versions and hardware of each run; small enough for a repository.",
    )
    parser.add_argument(
        "--continue-from",
        type=str | None,
        metavar="FILE.csv",
        help="What --keep wrote of the same study elsewhere or before: what it holds is not run again.",
    )
    parser.add_argument(
        "--check",
        type=bool,
        default=False,
        help="Run nothing: read the file and all its options, time a few steps of each kind of run, and print how many "
        "runs there are and how long they take.",
    )
    parser.passed_on = parser.add_options_of(StudyOptions, "study", skip=("plan", "out", "slurm", *_FILES))
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the study, and print its tables; status 1 if a run failed. Or say what it would be."""
    parser = make_parser()
    values = parser.parse_args(list(arguments)).as_dict()
    plan = load_study(values["plan"])
    if values["check"]:
        parts = []
        for part in checked(plan, _kept(plan, values["continue_from"])):
            parts.append(part)
            say(f"{part.name}: {part.seconds / 60:.2f} min", error=True)
        say(to_text(plan, parts))
        return 0
    check_options(plan)
    out = Path(values["out"] or Path("runs") / Path(values["plan"]).stem)
    try:
        passed_on = {name: values[name] for name in (*parser.passed_on, "slurm", *_FILES)}
        result = study(plan, out, **passed_on)
    except Interrupted as interruption:
        again = " ".join(["archgrad study", *map(shlex.quote, arguments)])
        say(f"Study {interruption}; what is done is kept. Go on with it:\n  {again}")
        raise
    say(f"\n{to_markdown(result.rows)}\nReport:  {result.report}")
    for name, reason in result.failed.items():
        say(f"Failed:  {name}: {reason}", error=True)
    return 1 if result.failed else 0


def _kept(plan: Study, file: str | None) -> Collection[Candidate]:
    """Return the candidates of a study that are not run again."""
    return () if file is None else goes_on_from(plan, candidates_of(plan, Path()), load_kept(file))
