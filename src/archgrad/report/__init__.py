"""Pictures and tables of runs, drawn from their files alone; no model and no data set is opened."""

from archgrad.report.report_file import architecture_image, draw_architecture, write_report
from archgrad.report.results import Figure

__all__ = ["Figure", "architecture_image", "draw_architecture", "write_report"]
