"""Processes that end together, and the progress they report to each other.

`llava_av.processes.guard` is not imported here: it is run as a module of its own.
"""

from llava_av.processes.job_entry import METRICS_PORT_VARIABLE, STORE_RETRY_VARIABLE, job_main
from llava_av.processes.lifeline import LIFELINE_VARIABLE, Lifeline, watch_lifeline
from llava_av.processes.progress import (
    PROGRESS_VARIABLE,
    ProgressEvent,
    follow_progress,
    report_progress,
)
from llava_av.processes.signals import handling_signals
from llava_av.processes.variables import seconds_variable, set_variables

__all__ = [
    "LIFELINE_VARIABLE",
    "METRICS_PORT_VARIABLE",
    "PROGRESS_VARIABLE",
    "STORE_RETRY_VARIABLE",
    "Lifeline",
    "ProgressEvent",
    "follow_progress",
    "handling_signals",
    "job_main",
    "report_progress",
    "seconds_variable",
    "set_variables",
    "watch_lifeline",
]
