"""From a photo to prompts and on to text embeddings: descriptions, the store that keeps them, and their encoding."""
