"""Labelled frames: read, checked, and split."""
