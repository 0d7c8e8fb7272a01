"""Learners: SAC for many tasks and MUST. Each is an `Algorithm`."""
