"""Process trees that end together, and the progress that processes report to each other.

`lifeline` ends processes when their owner dies; `guard` runs a command so that none of its processes outlives
the caller, `signals` handles signals during a block, and `termination` keeps SIGTERM as a request.
`job_entry` is the command line that all jobs share; `imports` speeds up their start and `leaving` their end.
`joining` detects a process that does not join its training group, `heartbeat` one that stopped or hangs;
`stalls` then ends the others. `progress` passes the progress of work to another process, `variables` sets and
reads environment variables, `cores` counts the usable cores, `allocator` returns freed memory, `frames` keeps
memory for calls, and `ordered_calls` calls a function on many files.

`guard` is not imported here because it also runs as a module of its own, and `joining`, `heartbeat` and
`stalls` because they need torch.
"""

from llava_av.processes.frames import call_with_frame_memory
from llava_av.processes.imports import uncollected_imports
from llava_av.processes.job_entry import (
    METRICS_PORT_VARIABLE,
    PROFILE_FOLDER_VARIABLE,
    PROFILE_STEPS_VARIABLE,
    STORE_RETRY_VARIABLE,
    job_main,
)
from llava_av.processes.leaving import exit_without_teardown
from llava_av.processes.lifeline import LIFELINE_VARIABLE, Lifeline, watch_lifeline
from llava_av.processes.progress import (
    PROGRESS_VARIABLE,
    ProgressEvent,
    follow_progress,
    progress_reporter,
    report_progress,
)
from llava_av.processes.signals import handling_signals
from llava_av.processes.variables import seconds_variable, set_variables

__all__ = [
    "LIFELINE_VARIABLE",
    "METRICS_PORT_VARIABLE",
    "PROFILE_FOLDER_VARIABLE",
    "PROFILE_STEPS_VARIABLE",
    "PROGRESS_VARIABLE",
    "STORE_RETRY_VARIABLE",
    "Lifeline",
    "ProgressEvent",
    "call_with_frame_memory",
    "exit_without_teardown",
    "follow_progress",
    "handling_signals",
    "job_main",
    "progress_reporter",
    "report_progress",
    "seconds_variable",
    "set_variables",
    "uncollected_imports",
    "watch_lifeline",
]
