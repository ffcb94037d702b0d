"""Scores of labels and of generated texts."""

from loradrop.extras import require

require(
    "experiments",
    *("datasets", "evaluate", "pyarrow", "scipy", "sklearn", "sacrebleu", "rouge_score", "nltk"),
)
