"""What several test files need."""

TINY_TEACHER = [
    *("--teacher", "lstm,embedding=24,hidden=32,layers=1,dropout=0.1"),
    *("--vocab-size", "300", "--teacher-steps", "40"),
]
"""Options of `edgetext distill` for a teacher that is trained in seconds."""

TINY_STUDENT = [
    *("--student", "lstm,embedding=16,hidden=16,layers=1,tied=true"),
    *("--batch-size", "8", "--sequence-length", "32", "--distill-steps", "40", "--refine-steps", "30"),
    *("--checkpoint-every", "3", "--patience", "6", "--precision", "fp32"),
]
"""Options for everything after it; fp32, so that every machine does the same."""
