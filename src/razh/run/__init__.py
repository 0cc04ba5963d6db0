"""What a run needs and leaves behind: recipe, folder, configuration, checkpoints, devices, loggers."""
