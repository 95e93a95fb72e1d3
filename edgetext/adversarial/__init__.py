"""Adversarial refinement: discriminators, objectives, gradient estimators, and the game."""
