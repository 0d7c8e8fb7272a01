"""How often simulators may break down before a run is better ended."""

from collections import deque


class Breakdowns:
    """Ends a run of which more than `most` of the last 1000 episodes broke off."""

    most = 50

    def __init__(self) -> None:
        self._broken: deque[int] = deque()

    def note(self, episode: int, name: str) -> None:
        """One broke off.

        Args:
            episode: how many have begun, this one among them.
            name: its task's.

        Raises:
            RuntimeError: there are too many.
        """
        while self._broken and self._broken[-1] > episode:  # before an older state was restored
            self._broken.pop()
        self._broken.append(episode)
        while self._broken[0] <= episode - 1000:
            self._broken.popleft()
        if len(self._broken) > self.most:
            raise RuntimeError(
                f"the simulator broke down, or gave an observation or reward that is not finite, "
                f"in {len(self._broken)} of the last {min(episode, 1000)} episodes, last in {name}"
            )
