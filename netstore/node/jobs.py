"""Long work on the loop, done in bounded steps between the turns of the member.

A job is work for one request that is too long for one call: a list of many keys, a sort. One or a few steps
are done after each turn, round-robin: by household (`admission.household`) first, then among the jobs of one
household, so that a client with a hundred lists delays only itself. A job that several clients wait for has
steps in the turns of each (`share`).

No clock is read here; steps are counted. A step takes about a millisecond; who writes one bounds it in rows
and bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from netstore import errors
from netstore.admission import household
from netstore.errors import Shed
from netstore.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.seams import Log

STEPS_PER_TURN: Final = 2
"""Steps after one turn of the member while there are no other requests."""

STEPS_BESIDE: Final = 1
"""The same while there are: they wait for one step, not for two."""

MOST_EACH: Final = 1_024
"""Jobs of one household at once: one address may be a proxy with many users."""

MOST_JOBS: Final = 8_192
"""Jobs of all households at once."""


class Job(Protocol):
    """Work that is done in steps. Compared by identity."""

    def step(self) -> bool:
        """Do the next bounded piece, about a millisecond; True when the work is done."""

    def failed(self, fault: Exception) -> None:
        """`step` raised this and is not called again. Must tell those that wait."""


class _Household:
    """The jobs of one household: their number, and those that want a step, the next one first."""

    __slots__ = ("count", "name", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.ready: OrderedDict[Job, None] = OrderedDict()


class Jobs:
    """The jobs of a member. `wake` is called when there is a step to do; `run` does some of them."""

    def __init__(self, wake: Callable[[], None], log: Log) -> None:
        self._wake = wake
        self._log = log
        self._households: dict[str, _Household] = {}
        self._jobs: dict[Job, dict[_Household, None]] = {}
        """Each with the households it is for."""
        self._turns: OrderedDict[_Household, None] = OrderedDict()
        """Households with a job that wants a step, the next one first."""

    def __len__(self) -> int:
        """How many jobs there are, including paused ones."""
        return len(self._jobs)

    @property
    def ready(self) -> bool:
        """Whether a job wants a step."""
        return bool(self._turns)

    def start(self, principal: str, job: Job) -> Fault | None:
        """Start a job. A fault, and nothing is started, if this household or all together have too many.

        O(1), as are all other calls but `run`; O(households of the job) for those that name one.
        """
        if len(self._jobs) >= MOST_JOBS:
            return errors.too_many()
        owner = self._admit(principal)
        if owner is None:
            return errors.too_many()
        self._jobs[job] = {owner: None}
        self._want(owner, job)
        return None

    def share(self, principal: str, job: Job) -> Fault | None:
        """Another client waits for a job that is not paused: it also has steps when it is their turn. A
        fault, and nothing changes, if they have too many.
        """
        owners = self._jobs[job]
        owner = self._households.get(household(principal))
        if owner is not None and owner in owners:
            return None
        owner = self._admit(principal)
        if owner is None:
            return errors.too_many()
        owners[owner] = None
        self._want(owner, job)
        return None

    def _admit(self, principal: str) -> _Household | None:
        """The household of a principal, if it may have one more job."""
        name = household(principal)
        owner = self._households.get(name)
        if owner is None:
            owner = self._households[name] = _Household(name)
        elif owner.count >= MOST_EACH:
            return None
        owner.count += 1
        return owner

    def pause(self, job: Job) -> None:
        """Give the job no steps until `resume`: it waits for something."""
        for owner in self._jobs.get(job, ()):
            self._rest(owner, job)

    def resume(self, job: Job) -> None:
        """Give a paused job its steps again. Nothing happens if it is not paused, or is over."""
        for owner in self._jobs.get(job, ()):
            self._want(owner, job)

    def cancel(self, job: Job) -> None:
        """Forget a job: nobody waits for it any more. Nothing happens if it is over already."""
        for owner in self._jobs.pop(job, ()):
            self._rest(owner, job)
            owner.count -= 1
            if not owner.count:
                del self._households[owner.name]

    def run(self, budget: int = STEPS_PER_TURN) -> None:
        """Do up to `budget` steps. A job whose step raises is over, the others go on; `MustStop` is
        raised.
        """
        while budget > 0 and self._turns:
            budget -= 1
            owner = next(iter(self._turns))
            self._turns.move_to_end(owner)
            job = next(iter(owner.ready))
            owner.ready.move_to_end(job)
            guarded(partial(self._fail, job), self._step, job)
        if self._turns:
            self._wake()

    def _step(self, job: Job) -> None:
        if job.step():
            self.cancel(job)

    def _fail(self, job: Job, fault: Exception) -> None:
        self.cancel(job)
        guarded(partial(self._failed_twice, job), job.failed, fault)  # first: writing the log line may fail
        if isinstance(fault, Shed):
            name = type(job).__name__
            limit = {"limit": fault.limit} if fault.limit else {}
            self._log.warning("job_given_up", job=name, reason=str(fault), **limit, fix=fault.fix)
            return
        self._log.error("job_failed", job=type(job).__name__, error=repr(fault))

    def _failed_twice(self, job: Job, fault: Exception) -> None:
        self._log.error("job_failed_twice", job=type(job).__name__, error=repr(fault))

    def _want(self, owner: _Household, job: Job) -> None:
        owner.ready[job] = None
        self._turns[owner] = None
        self._wake()

    def _rest(self, owner: _Household, job: Job) -> None:
        owner.ready.pop(job, None)
        if not owner.ready:
            self._turns.pop(owner, None)
