"""Evaluations through other packages and services: lm-eval's tasks, judges behind an endpoint."""
