"""Reports for users and tools.

`run_report/` writes the self-contained report.html of a run and its summary.json, `run_index/` writes the
index page of all runs in a bucket, `dataset_view/` writes a page with samples of a dataset, and `model_card/`
writes the card of a registered version. `lineage_tree.py` has the history of a version. They share embedded
media (`media.py`) with frames and waveforms (`previews.py`), the order of tables and the number formats
(`labels.py`), the Markdown of records (`prose.py`), drawing (`svg.py`, `tree_diagram.py`) and templates
(`templates.py`).
"""

from llava_av.report.run_report.clips import shown_samples
from llava_av.report.run_report.inputs import ExperimentView, ReportInputs
from llava_av.report.run_report.page import render_report, write_report
from llava_av.report.run_report.summary_json import build_summary

__all__ = [
    "ExperimentView",
    "ReportInputs",
    "build_summary",
    "render_report",
    "shown_samples",
    "write_report",
]
