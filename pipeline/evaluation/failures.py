"""Images that the classifier takes for another class than their label."""

from collections import Counter
from typing import Any

from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.statistics import SetStatistics

_LISTED = 100


def failures(student: SetStatistics, teacher: SetStatistics) -> dict[str, Any] | None:
    """What `evaluation.json` says of them, the surest first; None without a classifier or labels.

    Args:
        student, teacher: Images from the same noise and labels.
    """
    labels = student.labels
    if labels is None or not len(student.predicted):
        return None
    wrong, taught = student.predicted != labels, teacher.predicted != labels
    rows = wrong.nonzero().flatten()
    rows = rows[student.confidence[rows].argsort(descending=True, stable=True)]
    classes = [(int(labels[row]), int(student.predicted[row])) for row in rows.tolist()]
    return {
        "n": student.count,
        "student": bootstrap.mean(wrong)._asdict(),
        "teacher": bootstrap.mean(taught)._asdict(),
        "both": int((wrong & taught).sum()),
        "confusions": [
            {"label": label, "predicted": predicted, "count": count}
            for (label, predicted), count in Counter(classes).most_common(10)
        ],
        "surest": [
            {
                "id": row,
                "label": label,
                "predicted": predicted,
                "confidence": float(student.confidence[row]),
            }
            for row, (label, predicted) in zip(rows[:_LISTED].tolist(), classes, strict=False)
        ],
    }
