"""Histories in Redis: one value per user, written by a role of its own, read by every server.

`values.py` is the value's bytes, `store.py` what is asked of Redis, `progress.py` how far its
contents go; `reducer.py`, `seeding.py`, `beginning.py` and `writer.py` are the role (`python -m
service.histories`).
"""
