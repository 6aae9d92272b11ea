"""A synthetic stream in which new items keep appearing: HSTU's variants beside a Transformer."""
