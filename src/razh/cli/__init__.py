"""The command line: menu, parser, help, and its errors."""
