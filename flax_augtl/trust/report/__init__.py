"""The report of a training or an evaluation: report.html."""
