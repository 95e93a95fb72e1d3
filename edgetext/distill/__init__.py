"""Distillation: losses, tasks, and the run that takes a corpus to a student."""
