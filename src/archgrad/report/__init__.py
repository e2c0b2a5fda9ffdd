"""Pictures and tables of runs, drawn from their files alone; no model and no data set is opened."""

from archgrad.report.results import Figure
from archgrad.report.write_report import architecture_image, draw_architecture, write_report

__all__ = ["Figure", "architecture_image", "draw_architecture", "write_report"]
