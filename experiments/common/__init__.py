"""Shared by all commands: the terminal, files, interrupts."""
