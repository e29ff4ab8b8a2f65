"""Measuring models on data sets, and showing the result."""
