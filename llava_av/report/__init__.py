"""What a run leaves for people and for tools.

`run_report/` makes the self-contained report.html of a run and its summary.json, `run_index/` the page over
all runs of a bucket, `model_card/` the card of a registered version. They share the order of tables and
number formats (`labels.py`), the Markdown of records (`prose.py`), drawing (`svg.py`, `tree_diagram.py`) and
templates (`templates.py`).
"""

from llava_av.report.run_report.inputs import ExperimentView, ReportInputs
from llava_av.report.run_report.page import render_report, write_report
from llava_av.report.run_report.summary import build_summary

__all__ = ["ExperimentView", "ReportInputs", "build_summary", "render_report", "write_report"]
