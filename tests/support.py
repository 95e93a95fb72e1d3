"""What several test files need."""

TINY_OPTIONS = [
    *("--teacher", "lstm,embedding=24,hidden=32,layers=1,dropout=0.1"),
    *("--student", "lstm,embedding=16,hidden=16,layers=1,tied=true"),
    *("--vocab-size", "300", "--batch-size", "8", "--sequence-length", "32"),
    *("--teacher-steps", "40", "--distill-steps", "40", "--refine-steps", "12"),
    *("--checkpoint-every", "3", "--precision", "fp32"),
]
"""Options of `edgetext distill` that finish in seconds; fp32, so that every machine does the same."""
