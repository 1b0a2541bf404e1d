"""Losses of both steps of training.

Letters: B batch, S students, E exits, N outputs of a head.
"""

import torch

from fastbert.tasks.task import Task


def joint_loss(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of all exits on the targets of B rows: logits (E, B, N) to the sum over exits, mean over
    rows."""
    return task.loss(logits, labels.expand(len(logits), *labels.shape)).mean(-1).sum()


def distillation_loss(
    task: Task,
    students: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
    temperature: float = 1.0,
    hard_labels: float = 0.0,
) -> torch.Tensor:
    """Sum over students of the distance from the teacher, mean over rows: a scalar.

    `students` (S, B, N) and `teacher` (B, N) are logits; the teacher gets no gradient. The loss of
    `labels`, targets of B rows, is added with weight `hard_labels` (Hinton et al. 2015, section 2);
    rows without a target follow only the teacher.
    """
    loss = task.distil(students, teacher.detach(), temperature)  # (S, B)
    if labels is not None and hard_labels:
        weight = hard_labels * task.given(labels).to(loss.dtype)
        surprise = task.loss(students, labels.expand(len(students), *labels.shape))
        loss = (1 - weight) * loss + weight * surprise
    return loss.mean(-1).sum()
