"""When a run is going wrong without failing: another policy samples, the policy runs away, nothing is learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from avocet.errors import AvocetError, ConfigError
from avocet.training.finetune.engine import StepResult
from avocet.training.grpo.config import Grpo


class NothingLearntError(AvocetError):
    """Several steps in a row had no group to learn from."""


class Alarms:
    """Looks at every step of a run.

    Args:
        plan: its limits.
        say: shows a line.
    """

    def __init__(self, plan: Grpo, say: Callable[[str], None]) -> None:
        self._plan, self._say = plan, say
        self._idle_steps = 0

    def step(self, done: int, result: StepResult | None, figures: Mapping[str, float]) -> None:
        """After each step, with what is logged of it.

        Raises `ConfigError` where `on_mismatch` says so, and `NothingLearntError` after `max_idle_steps`.
        """
        self._check_lessons(done, figures)
        mismatch = 0.0 if result is None else result.figures.get("mismatch", 0.0)
        if mismatch > self._plan.mismatch_limit:
            self._raise(
                f"step {done}: log-probabilities of sampling and training differ by {mismatch:.3f} per token on "
                f"average, more than {self._plan.mismatch_limit:g}: the engine samples from another policy than the "
                "one that is trained. Check its weights, precision and preprocessing; the parity check compares both "
                "before the first step of every start without --skip-parity (docs/rollouts.md)"
            )
        largest = figures["largest_log_ratio"]
        # A ratio that is no number is the worst of all.
        if not largest <= self._plan.log_ratio_limit:
            self._raise(
                f"step {done}: a token has become e^{largest:.1f} times more or less likely since it was sampled, more "
                f"than e^{self._plan.log_ratio_limit:g}: the policy runs away from its samples. Lower the learning "
                "rate, or make fewer updates per batch"
            )

    def _raise(self, text: str) -> None:
        if self._plan.on_mismatch == "stop":
            raise ConfigError(text)
        self._say(text)

    def _check_lessons(self, done: int, figures: Mapping[str, float]) -> None:
        if figures["lessons"]:
            self._idle_steps = 0
            return
        self._idle_steps += 1
        text = f"step {done} had nothing to learn from: {_why(figures)}"
        limit = self._plan.max_idle_steps
        if limit and self._idle_steps >= limit:
            raise NothingLearntError(
                f"{text}. So had {self._idle_steps} steps in a row. See to the judge, the server or the rewards and go "
                "on with --resume, or raise max_idle_steps"
            )
        self._say(text)


def _why(figures: Mapping[str, float]) -> str:
    groups = [
        f"{figures[f'rollouts/groups_{name}']:g} {said}"
        for name, said in (
            ("too_small", "with fewer than two scored captions"),
            ("without_spread", "in which all captions are worth the same"),
            ("cut_off", "in which only captions that were cut off could count"),
        )
        if figures[f"rollouts/groups_{name}"]
    ]
    reasons = [
        f"{name.partition('/')[2]} ({count:g})"
        for name, count in figures.items()
        if name.startswith(("unscored/", "rejected/"))
    ]
    said = f"of {figures['rollouts/groups']:g} groups {', '.join(groups)}" if groups else "no clip could be read"
    return said + (f"; {'; '.join(reasons)}" if reasons else "")
