"""Scores with intervals, comparisons of runs, figures and reports."""
