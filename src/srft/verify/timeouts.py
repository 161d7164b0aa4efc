"""When too many responses cannot be graded: a broken grader must not pass for wrong answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from srft.errors import SrftError

FEWEST = 32  # responses that a share is taken of: all of a group may hang the grader alike


class TimeoutLimit:
    """Raises when the share of responses without a verdict exceeds a limit.

    Args:
        share: of the responses graded together, or of the last 32 where these are fewer; None for no limit.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self._recent: deque[str] = deque(maxlen=FEWEST)

    def check(self, failures: Sequence[str]) -> None:
        """Count responses just graded.

        Args:
            failures: why each has no verdict, "" for one that has.

        Raises:
            SrftError: too many have none.
        """
        self._recent.extend(failures)
        latest = failures if len(failures) > FEWEST else list(self._recent)
        failed = [failure for failure in latest if failure]
        if self.share is None or len(latest) < FEWEST or len(failed) <= self.share * len(latest):
            return
        ((most, times),) = Counter(failed).most_common(1)
        raise SrftError(
            f"{len(failed)} of {len(latest)} responses could not be graded; {times} of them: {most}",
            where=f"verify.max_timeouts: {self.share:g}",
            fix="Correct what grades them, or give it longer: verify.timeout for one response, verify.function_timeout "
            "for a function's call with all of a step's. verify.max_timeouts: null trains on all the same.",
        )
