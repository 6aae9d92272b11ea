"""How long what waits for what, in event time."""

from typing import NamedTuple

LOOKS = 1024
"""Most looks at the open impressions in the longest time that a record matters."""


class JoinRules(NamedTuple):
    """The windows of the join, in milliseconds of event time.

    An impression shown at t has the window [t, t + join); an action up to t + join + correct still
    corrects it. Both are kept so much longer that what was decided by a record that is gone would
    not be decided differently without it: that makes the state a function of what can be reread.
    """

    join_ms: int
    correct_ms: int = 0
    future_ms: int = 0
    """How far an event time may be ahead: `intake.max_future_seconds`."""

    @property
    def horizon_ms(self) -> int:
        """From an impression to the end of the actions that still say something about it."""
        return self.join_ms + self.correct_ms

    @property
    def kept_ms(self) -> int:
        """From an impression to its being forgotten: its last action has ceased to wait by then."""
        return self.horizon_ms + self.join_ms

    @property
    def matters_ms(self) -> int:
        """From an action to the moment when no impression that it could belong to is kept. It may
        be dated up to one window before its impression."""
        return self.kept_ms + self.join_ms

    @property
    def look_ms(self) -> int:
        """The watermark's progress between two looks: bounds how many there are to remember."""
        return max(1, (self.matters_ms + self.future_ms) // LOOKS)
