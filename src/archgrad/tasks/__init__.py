"""What a network is trained for: classes, labels, values, a class at each position, or a task of one's own."""

from archgrad.tasks.base_task import LOSSES, Task
from archgrad.tasks.choose import TASKS, Chosen, chosen_task
from archgrad.tasks.classification import Classification
from archgrad.tasks.measure import Measure
from archgrad.tasks.multilabel import Multilabel
from archgrad.tasks.positions import Segmentation, Sequence
from archgrad.tasks.regression import Regression
from archgrad.tasks.task_options import TaskOptions
from archgrad.tasks.weighting import loss_on

__all__ = [
    "LOSSES",
    "TASKS",
    "Chosen",
    "Classification",
    "Measure",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Sequence",
    "Task",
    "TaskOptions",
    "chosen_task",
    "loss_on",
]
