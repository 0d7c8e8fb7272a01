"""Suites of tasks and the vectors of environments that step them."""
