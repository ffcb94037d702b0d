"""The English that the generated tasks are made of."""
