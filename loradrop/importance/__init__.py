"""Measure: how strongly each LoRA's output moves the frozen model."""
