"""Speed and memory: `python -m experiments.benchmark <name>`, docs/performance.md."""
