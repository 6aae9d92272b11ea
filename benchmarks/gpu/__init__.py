"""Everything that only a GPU can show, in one command: `python -m benchmarks.gpu --out DIR`.

`sections.py` lists what is checked and what is measured, each in a process of its own (`child.py`),
so that a crash, a hang or an unusable device costs one section; `__main__.py` runs them within a
budget of time and writes the report (`results.py`) after each.
"""
