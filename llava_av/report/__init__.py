"""What a run leaves for people and for tools: one self-contained `report.html` and `summary.json`."""

from llava_av.report.run_report.inputs import ExpectedRow, ExperimentView, PredictionRow, ReportInputs
from llava_av.report.run_report.page import render_report, write_report
from llava_av.report.run_report.summary import Summary, build_summary, write_json

__all__ = [
    "ExpectedRow",
    "ExperimentView",
    "PredictionRow",
    "ReportInputs",
    "Summary",
    "build_summary",
    "render_report",
    "write_json",
    "write_report",
]
