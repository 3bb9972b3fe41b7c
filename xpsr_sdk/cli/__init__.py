"""The command line ``xpsr``: parses, calls, prints."""
