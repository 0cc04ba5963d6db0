"""Codes that fit a collection: its unlabelled images, what is known of classes, and when to leave a code as it is."""
