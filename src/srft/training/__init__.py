"""Training: the loop, what it works with, and what it leaves in the run directory. It knows no method by name."""
