"""What is sent to an actor of the pool that dies with it is sent again, once the actor is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lposekit.errors import LposekitError
from lposekit.recipe import ActorHandle

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

RESTART_WAIT_S = 0.5
ATTEMPTS = 3


class DiedEachTime(LposekitError):
    """An actor died with the same work as often as it was sent."""


def ask(actor: ActorHandle, method: str, argument: Any, what: str) -> Callable[[], Any]:
    """Send something to a method of a pool's actor, now; the call of what comes back waits for the answer, `ATTEMPTS`
    times. `what`: the actor and its work, for messages.

    Raises:
        LposekitError: the actor died each time, or is not started again; raised by the call.
    """

    def send() -> ObjectRef:
        return getattr(actor, method).remote(argument)

    reference = send()
    return lambda: answer_of(reference, send, actor, ATTEMPTS, what)


def answer_of(reference: ObjectRef, send: Callable[[], ObjectRef], actor: ActorHandle, attempts: int, what: str) -> Any:
    """Wait for an answer; `send` is called again if the actor died, at most so often that there are `attempts`.

    Raises:
        DiedEachTime: it died at the last attempt too. LposekitError: it is not started again.
    """
    import ray
    from ray.exceptions import RayActorError

    for attempt in range(1, attempts + 1):
        try:
            return ray.get(reference)
        except RayActorError as error:
            logger.warning("the process of %s died (try %d): %s", what, attempt, error)
        _wait_until_back(actor, what)
        if attempt < attempts:
            reference = send()
    raise DiedEachTime(
        f"the process of {what} died {attempts} times. Look for a lack of memory (of the GPU too), then run the same "
        "command again."
    )


def _wait_until_back(actor: ActorHandle, what: str) -> None:
    """What is sent to an actor that has just died fails as well, and would count as an attempt that nobody made.

    However long its models load: the build's watchdog ends what never comes back.

    Raises:
        LposekitError: the actor is not started again.
    """
    import ray
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    while True:
        try:
            ray.get(actor.card.remote())
            return
        except ActorUnavailableError:
            time.sleep(RESTART_WAIT_S)
        except ActorDiedError as error:
            raise LposekitError(f"the process of {what} died and is not started again: {error}") from error
