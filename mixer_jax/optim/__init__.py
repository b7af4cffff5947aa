"""Optimizers and schedules by the name that configs use."""
