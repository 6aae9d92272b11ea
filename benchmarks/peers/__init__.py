"""Other embedding tables under the store's protocol, in processes and environments of their own.

`workload.py` and `rounds.py` are what all of them share; they need numpy and nothing else, since
the peers' environments hold neither this project's dependencies nor its packages.
"""
