"""One loop for all trainings, on accelerate."""
