"""A trained classifier for others: exports, and what asks them."""
