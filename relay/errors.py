"""Every error that relay raises on purpose, in one tree.

RelayError
├── SettingsError            the configuration is wrong; all mistakes in one message
├── ConfigExistsError        `relay init` would have to overwrite a file
├── RejectedError            a request is refused; carries the answer's status and reason
├── JournalError             the journal file must not be used; the process ends
│   ├── JournalLockedError       another process owns it
│   ├── JournalForeignError      not a journal, or written by a newer version
│   ├── JournalDamagedError      a journal, but its pages are broken
│   ├── JournalNoSpaceError      transient: its volume is full
│   ├── JournalBusyError         transient: another program holds its lock
│   ├── JournalDeniedError       permanent until repaired: a file or the volume may not be written
│   ├── JournalUnreadableError   permanent until repaired: the disk fails
│   └── JournalRemoteError       permanent until accepted: it lies on a network file system
├── PublishError             Kafka did not take a batch; the batch stays in the journal
│   ├── KafkaUnavailableError    transient: back off and try again for ever
│   │   └── ProducerOustedError      its place was taken, or its transaction took too long
│   ├── KafkaRefusedError        permanent until an operator repairs it: hold, show, try slowly
│   │   ├── TopicMissingError        a topic is not there, and is not to be made or cannot be
│   │   └── TopicDeniedError         the right to write to a topic
│   ├── BatchRefusedError        what was sent together is sent otherwise: at once
│   └── RecordRefusedError       these records were refused alone: dead-letter them
│       └── RecordTooLargeError      for their size
├── EventNotFoundError       the journal has no such event
├── EventNotReplayableError  the journal has it, but it cannot be changed that way now
├── FeishuError              Feishu's API did not do what was asked
│   ├── FeishuUnavailableError   transient: away, slow or busy
│   └── FeishuRefusedError       permanent until repaired: a wrong secret, a missing right
├── ProxyError               a variable names a proxy that relay cannot use
├── ClaimsError              the claims store did not say who publishes a batch; it waits, or goes
│   ├── ClaimsUnavailableError   transient: away or slow
│   ├── ClaimsRefusedError       permanent until repaired: too old, or a wrong password
│   ├── ClaimsEmptiedError       the store has lost what was in it: bring it in again
│   └── ClaimsAwaitedError       another replica's past is not in the store: wait for it
├── RegistryError            a schema registry did not take a schema
│   ├── RegistryUnavailableError     transient: away, slow or busy
│   ├── RegistryDeniedError          permanent until repaired: a wrong password, a missing right
│   ├── RegistryIncompatibleError    its rule does not let this schema follow that one
│   └── RegistryRefusedError         it takes no such schema, or is no schema registry
├── StoppedWorkingError      a part of this process has died, and the rest cannot do without it
├── FencedError              another process took over this journal's identity; the process ends
└── BrokerError              the embedded development broker cannot start
"""

from enum import StrEnum
from http import HTTPStatus


class RejectReason(StrEnum):
    """Why a request was refused: metric label, log field and `error` code of the answer."""

    SIGNATURE = "signature"
    TOKEN = "token"  # noqa: S105 - a reason's name
    PLAIN_BODY = "plain_body"
    STALE = "stale"
    NOT_JSON = "not_json"
    NOT_DECRYPTABLE = "not_decryptable"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    UNKNOWN_APP = "unknown_app"
    UNKNOWN_PATH = "unknown_path"
    METHOD = "method"
    MALFORMED = "malformed"
    JOURNAL_FULL = "journal_full"
    JOURNAL_UNAVAILABLE = "journal_unavailable"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    INTERNAL_ERROR = "internal_error"


STATUS = {
    RejectReason.SIGNATURE: HTTPStatus.UNAUTHORIZED,
    RejectReason.TOKEN: HTTPStatus.UNAUTHORIZED,
    RejectReason.PLAIN_BODY: HTTPStatus.UNAUTHORIZED,
    RejectReason.STALE: HTTPStatus.UNAUTHORIZED,
    RejectReason.NOT_JSON: HTTPStatus.BAD_REQUEST,
    RejectReason.NOT_DECRYPTABLE: HTTPStatus.BAD_REQUEST,
    RejectReason.EMPTY: HTTPStatus.BAD_REQUEST,
    RejectReason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RejectReason.TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    RejectReason.UNKNOWN_APP: HTTPStatus.NOT_FOUND,
    RejectReason.UNKNOWN_PATH: HTTPStatus.NOT_FOUND,
    RejectReason.METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    RejectReason.MALFORMED: HTTPStatus.BAD_REQUEST,
    RejectReason.JOURNAL_FULL: HTTPStatus.SERVICE_UNAVAILABLE,
    RejectReason.JOURNAL_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    RejectReason.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
    RejectReason.DRAINING: HTTPStatus.SERVICE_UNAVAILABLE,
    RejectReason.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class RelayError(Exception):
    """The root: everything below was foreseen and has a sentence for its reader."""

    #: What a command ends with; from 64 on as in sysexits.h.
    exit_code = 1


class SettingsError(RelayError):
    """The configuration is wrong; the message names every mistake, never a secret."""


class ConfigExistsError(RelayError):
    """The file that `relay init` is to write is there, with somebody's settings."""


class RejectedError(RelayError):
    """The request is refused and nothing of it is stored."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return STATUS[self.reason]


class JournalError(RelayError):
    """The journal file must not be used by this process."""


class JournalLockedError(JournalError):
    """Another process owns the journal."""


class JournalForeignError(JournalError):
    """The file is not a journal, or a newer version of relay has written it."""


class JournalDamagedError(JournalError):
    """The file is a journal, but its content cannot be trusted."""


class JournalNoSpaceError(JournalError):
    """The journal is sound, but its volume has no space left."""

    exit_code = 73


class JournalUnreadableError(JournalError):
    """The disk below the journal does not read or write; of the content nothing is known."""

    exit_code = 74


class JournalBusyError(JournalError):
    """The journal is sound, but another program than relay holds its lock."""

    exit_code = 75


class JournalDeniedError(JournalError):
    """The journal, a file beside it or its volume may not be written by this process."""

    exit_code = 77


class JournalRemoteError(JournalError):
    """The journal lies on a network file system, which the settings do not accept."""

    exit_code = 78


class EventNotFoundError(RelayError):
    """The journal has no event of that id."""


class EventNotReplayableError(RelayError):
    """The event is there, but it is pending, without its body, or not kept for a decision."""


class HandoverError(RelayError):
    """A file of `relay events export` cannot be written, or is none."""


class PublishError(RelayError):
    """Kafka did not take a batch, or did not say whether it did; the journal still holds it."""


class KafkaUnavailableError(PublishError):
    """Transient: the brokers are away, slow or electing; tried again for ever."""


class ProducerOustedError(KafkaUnavailableError):
    """Transient: the broker ended this producer's epoch; the journal's offset tells by whom."""


class KafkaRefusedError(PublishError):
    """Permanent until repaired: missing rights, a missing topic, a wrong password."""


class TopicMissingError(KafkaRefusedError):
    """Topics are not there, and relay is not to make them, or Kafka does not let it."""


class TopicDeniedError(KafkaRefusedError):
    """Relay's user may not write to a topic."""


class BatchRefusedError(PublishError):
    """Transient: a batch was refused as it was; the next attempt sends it otherwise."""

    def __init__(self, message: str, fate: StrEnum) -> None:
        super().__init__(message)
        #: A Fate: what was wrong with it.
        self.fate = fate


class RecordRefusedError(PublishError):
    """The broker refuses records for what they are, each of them alone."""

    def __init__(self, *positions: int, why: str = "refused by the broker") -> None:
        super().__init__(f"{len(positions)} record(s) of the batch: {why}")
        #: Indexes of the records in the batch that was to be published.
        self.positions = positions


class RecordTooLargeError(RecordRefusedError):
    """The broker takes no record of this size."""


class FeishuError(RelayError):
    """Feishu's API did not do what was asked of it."""


class FeishuUnavailableError(FeishuError):
    """Transient: Feishu is away, slow or busy."""


class ProxyError(RelayError):
    """Permanent until somebody acts: a variable names a proxy that relay cannot use."""


class FeishuRefusedError(FeishuError):
    """Permanent until somebody acts: a wrong secret, a missing right, another domain's app."""


class ClaimsError(RelayError):
    """Nobody knows who may publish a batch."""


class ClaimsUnavailableError(ClaimsError):
    """Transient: the claims store is away, slow or changing its master."""


class ClaimsEmptiedError(ClaimsError):
    """Transient: the store has lost what was in it; nothing was claimed."""


class ClaimsAwaitedError(ClaimsError):
    """Transient: other replicas have not yet brought their past into the claims store."""

    def __init__(self, message: str, replica: str = "") -> None:
        super().__init__(message)
        #: Which one, if it is one.
        self.replica = replica


class ClaimsRefusedError(ClaimsError):
    """Permanent until somebody acts: the store is too old, or refuses this user."""


class RegistryError(RelayError):
    """A schema registry did not take a schema."""


class RegistryUnavailableError(RegistryError):
    """Transient: the registry is away, slow or busy."""

    exit_code = 69


class RegistryDeniedError(RegistryError):
    """Permanent until somebody acts: a wrong password, a missing right."""

    exit_code = 77


class RegistryIncompatibleError(RegistryError):
    """The registry's rule for a subject does not let this schema follow the one that it has."""

    exit_code = 65

    def __init__(self, subject: str, reasons: str) -> None:
        super().__init__(
            f"{subject}: by its rule of compatibility the registry does not take this schema after"
            f" the one that it has{reasons}. The contract grows by new fields: the rule FORWARD"
            " allows that, BACKWARD does not"
        )


class RegistryRefusedError(RegistryError):
    """The registry takes no such schema, or what answers is no registry."""

    exit_code = 76


class StoppedWorkingError(RelayError):
    """A thread or a callback has died of a fault of ours; the process ends, to be started again."""

    exit_code = 70


class FencedError(RelayError):
    """Another process publishes under this journal's identity; this one must end."""

    def __init__(self, message: str, alone_from: int = 0) -> None:
        super().__init__(message)
        #: The seq from which on this process's events are its alone: the earlier ones are in Kafka,
        #: or in the successor's journal too. 0 if nobody knows: better an event twice than none.
        self.alone_from = alone_from


class BrokerError(RelayError):
    """The embedded development broker cannot start."""
