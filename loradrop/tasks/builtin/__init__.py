"""The generated tasks: no files, no download."""
