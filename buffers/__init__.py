"""Replay: transitions in equal shares per task, and the states of whole episodes."""
