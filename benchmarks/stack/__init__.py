"""The whole stack under an open-loop load: `python -m benchmarks.stack`.

`plan.py` says what is sent and when, `world.py` who acts on what, `client.py` is the HTTP client,
`generator.py` the process that sends, `probes.py` its probes of freshness, `sent.py` what it leaves
behind. `processes.py` starts the stack, `watch.py` looks at its processes, `accounts.py` compares
what was sent with what was learned, `picture.py` draws the run.
"""
