"""Answers ranking requests from the newest good version, and takes actions in.

`app` builds the HTTP application around a `server`: who may ask, what is appended, `impressions`
(what was shown). It asks a `backend`: `core` in the same process, or `workers.remote`. The core
owns the tables and the threads: `engine` (the one that touches model and histories), `follow` (new
versions), `fresh` (new actions), `items`. What is on the HTTP side imports neither torch nor numba.
May import `service` and `kernels`, never `trainer`.
"""
