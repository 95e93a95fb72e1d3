"""Evaluation: likelihood, n-gram measures, quality against diversity, the report."""
