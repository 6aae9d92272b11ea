"""The `freshet` command: replay, demo, train, serve.

Commands read files, write the stream and show what happens. The trainer and the server are
processes of their own: nothing here imports either.
"""
