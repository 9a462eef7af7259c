"""Downloads what a table's URLs lead to, politely and within limits, into a store: nothing is fetched twice."""
