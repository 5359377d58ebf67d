"""Self-contained HTML pages: `page` of one run, `compare` of several."""
