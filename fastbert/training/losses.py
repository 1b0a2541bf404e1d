"""What both steps of training minimise.

Letters: B batch, S students, E exits, N numbers that a head gives.
"""

import torch

from fastbert.tasks.task import Task


def joint_loss(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of all exits on the targets of B rows: logits (E, B, N) to the sum over exits, a mean over
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
    """Sum over students of how far each is from the teacher, mean over rows: a scalar.

    `students` (S, B, N) and `teacher` (B, N) are logits; the teacher gets no gradient. With a
    weight of `hard_labels` the loss of `labels`, targets of B rows, joins in (Hinton et al. 2015,
    section 2); rows without a target follow the teacher alone.
    """
    loss = task.distil(students, teacher.detach(), temperature)  # (S, B)
    if labels is not None and hard_labels:
        weight = hard_labels * task.given(labels).to(loss.dtype)
        surprise = task.loss(students, labels.expand(len(students), *labels.shape))
        loss = (1 - weight) * loss + weight * surprise
    return loss.mean(-1).sum()
