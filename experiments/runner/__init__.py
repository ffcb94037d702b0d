"""Turn one config into one result."""
