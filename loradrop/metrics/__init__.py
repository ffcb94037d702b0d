"""Scores of labels and of generated texts."""
