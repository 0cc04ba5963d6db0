"""Commands beside those of the trainer: one file a command, each with `main(argv)`.

Three need something of the trainer's command line, which they are given: `reproduce` runs it, `sweep` and `tune` ask
whether it has their options.
"""
