"""Learners: SAC for many tasks and its kin, MUST, PEARL, TIGR, CEMRL, CAVIA and MAML."""
