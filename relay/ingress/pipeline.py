"""What happens to every delivery, whichever way it came: check it, store it, say so."""

from collections.abc import Mapping

from relay.contract.identity import interactive
from relay.errors import RejectedError, RejectReason
from relay.events import Challenge, Interaction, Outcome, RawCallback
from relay.ingress import authentic
from relay.journal.journal import Journal
from relay.settings import App

_NO_APP = (
    "no app of this name is configured: /webhook/event is the app named default, "
    "/webhook/event/NAME each other one"
)


class Pipeline:
    """The ack path; both transports call `accept`."""

    def __init__(self, apps: Mapping[str, App], journal: Journal | None) -> None:
        #: None until it can be opened: its volume is full.
        self.journal = journal
        self._credentials = {
            name: authentic.Credentials(
                keys=tuple(authentic.EncryptKey(key) for key in app.encrypt_keys),
                tokens=tuple(token.encode() for token in app.verification_tokens),
            )
            for name, app in apps.items()
        }

    async def accept(self, raw: RawCallback) -> Outcome | Challenge | Interaction:
        """Take a delivery: its outcome once it is on disk, or the challenge to echo.

        Raises RejectedError if it must not or cannot be taken.
        """
        credentials = self._credentials.get(raw.app)
        if credentials is None:
            raise RejectedError(RejectReason.UNKNOWN_APP, _NO_APP)
        callback = authentic.open(raw, credentials)
        if isinstance(callback, Challenge):
            return callback
        if self.journal is None:
            raise RejectedError(RejectReason.JOURNAL_UNAVAILABLE, "the journal's volume is full")
        outcome = await self.journal.add(callback)
        return Interaction(outcome=outcome) if interactive(callback.event_type) else outcome
