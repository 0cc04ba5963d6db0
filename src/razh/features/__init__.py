"""What a frozen network makes of images, kept on disk: which arrays there are, and how they lie there."""
