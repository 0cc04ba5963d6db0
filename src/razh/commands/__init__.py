"""Commands that need no trainer: one file a command, each with `main(argv)`."""
