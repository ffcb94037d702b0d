"""One config -> one result."""
