"""How long the trials that are left will take, about. Knows when trials began and ended; nothing of their content."""


class Pace:
    """The trials that run at once. left: that are to run. began_at: when the first did. usual_s: how long one took of
    those that ran before this; None where none did.

    Whoever runs them tells only which have ended: a place that becomes free is taken at once by the next one. What
    counts is how long a place was taken, judges included.
    """

    def __init__(self, at_once: int, left: int, began_at: float, usual_s: float | None = None) -> None:
        self._at_once = max(1, at_once)
        self._begun = [began_at] * min(self._at_once, left)  # of those that run, in no order
        self._before_s = usual_s
        self._taken_s = 0.0
        self._ended = 0

    def take(self, duration_s: float, left: int, now: float) -> None:
        """One has ended that went on for that long. left: how many are to end now."""
        if self._begun:
            by_then = [at for at in self._begun if at <= now - duration_s]
            began = max(by_then, default=min(self._begun))  # which place it had is not told
            self._begun.remove(began)
            self._taken_s += now - began
            self._ended += 1
        self._begun += [now] * (min(self._at_once, left) - len(self._begun))

    def remaining(self, left: int, now: float) -> float | None:
        """Seconds until all have ended, if each takes as long as usual: 0 where they are overdue; None where nothing is
        known of how long one takes.

        All places share the work; but no trial is shared.
        """
        ages = [now - at for at in self._begun[:left]]
        usual_s = self._usual(ages)
        if usual_s is None:
            return None
        running = [max(0.0, usual_s - age) for age in ages]
        waiting = usual_s * (left - len(running))
        return max([*running, (sum(running) + waiting) / min(self._at_once, max(1, left))])

    def _usual(self, ages: list[float]) -> float | None:
        """The mean of those that ended, and of those that go on for longer already: the first to end are quick ones."""
        if not self._ended:
            return self._before_s
        mean = self._taken_s / self._ended
        longer = [age for age in ages if age > mean]
        return (self._taken_s + sum(longer)) / (self._ended + len(longer))
