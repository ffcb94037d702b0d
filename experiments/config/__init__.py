"""From the command line to configs of runs: schema, checks, ids, sweeps, the experiments."""
