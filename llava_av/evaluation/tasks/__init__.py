"""Benchmark tasks.

Each YAML file is a task: its prompt, its rule and the format of its data (`task.py`). `benchmark_files.py`
has a reader for each published format, which uses the rows of `published_rows.py`; `task_samples.py` makes
samples from them.
"""

from llava_av.evaluation.tasks.task import Task, TaskError, load_task, task_names
from llava_av.evaluation.tasks.task_samples import read_task_samples

__all__ = ["Task", "TaskError", "load_task", "read_task_samples", "task_names"]
