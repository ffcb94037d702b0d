"""Tables and figures of results, beside the papers' numbers."""
