"""The plug-in system: the hooks, what is installed, what it offers, and the look-up by name."""
