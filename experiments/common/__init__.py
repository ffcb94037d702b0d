"""What every command uses: the terminal and files."""
