"""How a work on many photos is spread: over this process, over processes of this machine, or over a cluster."""
