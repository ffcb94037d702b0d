"""From the command line to the configs of runs: schema, checks, identity, sweeps, the catalogue of experiments."""
