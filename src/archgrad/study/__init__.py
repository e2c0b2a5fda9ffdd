"""Studies: many searches side by side, and what to believe of them."""

from archgrad.study.study_api import StudyResult, study
from archgrad.study.study_file import Entry, Judge, Study, load_study

__all__ = ["Entry", "Judge", "Study", "StudyResult", "load_study", "study"]
