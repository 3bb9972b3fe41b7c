"""How the networks are run: tiles, guidance and batches, whatever the sampler and the fusion."""
