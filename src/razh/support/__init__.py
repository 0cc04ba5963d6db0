"""What every room may use: files, processes, the terminal, bounds of options."""
