"""What an engineer would put in Freshet's place, as it is usually written, asked the same.

Each is a FastAPI application in a process of its own (`app.py`), tuned as its documentation
advises: one compute thread, uvloop, httptools, orjson; histories in a Redis, through hiredis. None
learns.
"""
