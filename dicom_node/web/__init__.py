"""The status page: what the administrator sees in a browser, and what monitoring asks."""
