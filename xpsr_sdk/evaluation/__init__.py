"""How close restored photos are to their originals: metrics, matching of folders, reports."""
