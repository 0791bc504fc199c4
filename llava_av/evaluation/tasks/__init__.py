"""Benchmark tasks.

Each YAML file is a task: its prompt, its rule and the format of its data (`task.py`). `formats.py` has a
reader for each published format, which uses the rows of `rows.py`; `reading.py` makes samples from them.
"""

from llava_av.evaluation.tasks.reading import read_samples
from llava_av.evaluation.tasks.task import Task, TaskError, load_task, task_names

__all__ = ["Task", "TaskError", "load_task", "read_samples", "task_names"]
