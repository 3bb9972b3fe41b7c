"""Makes training data of sharp photos: crops, degradations and prompts, written as shards or pairs."""
