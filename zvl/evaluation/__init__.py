"""Measures of what a model learned, in both languages, with baselines and intervals (paper section 4)."""
