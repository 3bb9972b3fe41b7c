"""Images and training pairs on disk."""
