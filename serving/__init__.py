"""Answers ranking requests from the newest good version, and takes actions in.

`app` builds the HTTP application, `server` owns its threads: `engine` (the one thread that touches
model and histories), `follow` (new versions), `fresh` (new actions), `impressions` (what was
shown). May import `service` and `kernels`, never `trainer`.
"""
