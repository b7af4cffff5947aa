"""Figures and studies of runs."""
