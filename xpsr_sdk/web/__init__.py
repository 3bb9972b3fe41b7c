"""``xpsr web``: a page on which photos are restored, and its API."""
