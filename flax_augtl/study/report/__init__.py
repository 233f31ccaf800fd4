"""The report of a study: report.html, study.csv and the table of the terminal."""

from etils import epath

from flax_augtl.study.report.formatting import terminal_table
from flax_augtl.study.report.page import page
from flax_augtl.study.report.spreadsheet import study_csv
from flax_augtl.study.report.verdict import verdict
from flax_augtl.study.result import StudyResult
from flax_augtl.workdir import files

__all__ = ["terminal_table", "verdict", "write_report"]


def write_report(result: StudyResult, workdir: epath.PathLike) -> None:
    """Write report.html and study.csv into the directory of a study, each whole or not at all.

    Raises:
      CannotWrite: a file cannot be written.
    """
    workdir = epath.Path(workdir)
    for name, text in ((files.STUDY, study_csv(result)), (files.REPORT, page(result))):
        # Names of files need not be valid Unicode.
        files.write_text(workdir / name, text.encode("utf-8", "backslashreplace").decode())
