"""Optical flow in both directions between two frames."""
