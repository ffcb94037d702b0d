"""Measures speed and memory: `python -m experiments.benchmark <name>`. Makes docs/performance.md."""
