"""Users' histories: the last events of each user, kept in rings whose size follows the user.

May import from `service` and `kernels`.
"""
