"""How files are read and written, whatever they hold: with limits, whole or not at all, without leftovers."""
