"""Replay: single transitions, contexts and windows of each task; states of whole episodes."""
