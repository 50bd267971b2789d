"""What labels are: classes, several labels of yes and no, or numbers. Imports nothing, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Sequence

TASKS = ("multiclass", "multilabel", "regression")


def resolve_task(columns: Sequence[str], task: str) -> str:
    """The task of label columns: as stated, or else multiclass for one column and multilabel for several.

    Raises:
        ValueError: For an unknown task, or one that does not fit the number of columns.
    """
    if isinstance(task, str) and not task:
        return "multiclass" if len(columns) == 1 else "multilabel"
    if task not in TASKS:
        raise ValueError(f"task must be one of {list(TASKS)}, got {task!r}")
    if task == "multiclass" and len(columns) > 1:
        raise ValueError(
            f"the task multiclass has one label column, whose cells name the class; got {list(columns)}. Columns of yes and no "
            f"are the task multilabel, columns of numbers are the task regression"
        )
    return task
