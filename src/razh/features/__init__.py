"""What a frozen network makes of images, kept on disk: which arrays there are, how they lie there, who fills them."""
