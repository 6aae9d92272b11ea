"""Redis: where it is, how it is reached, and the channel on which versions are announced.

May import from `service`. What is kept of users lies in `service/histories/redis`.
"""
