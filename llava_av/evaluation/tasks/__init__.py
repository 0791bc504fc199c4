"""Evaluation tasks as small files: YAML for what is asked and how, and a reader for each published format."""

from llava_av.evaluation.tasks.reading import read_samples
from llava_av.evaluation.tasks.task import Task, TaskError, load_task, task_names

__all__ = ["Task", "TaskError", "load_task", "read_samples", "task_names"]
