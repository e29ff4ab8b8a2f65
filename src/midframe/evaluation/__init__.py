"""Evaluate models on data sets and report the results."""
