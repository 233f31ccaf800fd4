"""The report of a study: report.html, study.csv and the table of the terminal."""

from etils import epath

from flax_augtl import run_directory
from flax_augtl.study.report.page import page
from flax_augtl.study.report.spreadsheet import study_csv
from flax_augtl.study.report.verdict import verdict
from flax_augtl.study.report.words import terminal_table
from flax_augtl.study.result import StudyResult

__all__ = ["terminal_table", "verdict", "write_report"]


def write_report(result: StudyResult, workdir: epath.PathLike) -> None:
    """Write report.html and study.csv into a run directory, each whole or not at all.

    Raises:
      ValueError: a file cannot be written.
    """
    workdir = epath.Path(workdir)
    for name, text in ((run_directory.STUDY, study_csv(result)), (run_directory.REPORT, page(result))):
        # Names of files need not be valid Unicode.
        run_directory.write_text(workdir / name, text.encode("utf-8", "backslashreplace").decode())
