"""What came out: accuracy matrices, tables, figures and a page."""

# The file of a run folder that holds them.
RESULTS = "results.json"
