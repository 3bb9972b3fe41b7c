"""Requests from many threads, restored in batches by one pipeline."""
