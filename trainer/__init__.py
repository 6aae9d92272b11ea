"""The continuous trainer: reads the streams, learns, publishes versions.

May import from `service` and `kernels`, never from `serving`.
"""
