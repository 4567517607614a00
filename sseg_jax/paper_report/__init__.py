"""`evaluate --report`: the paper's tables beside what was run, as a page."""
