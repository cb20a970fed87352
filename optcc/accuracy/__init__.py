"""Is the artifact still right? Text to check on, per-token metrics, intervals, comparison, limits.

The flow: `data.load_text_sets` gives windows of token ids, `compare.compare_decoder` runs original and
artifact over them, `gates.judge` holds the result against the recipe's limits.
"""
