"""What to do about what is wrong: for each error and finding a stable code, an advice, a place.

The codes are for scripts and alerts: one that is there stays. Places are below the repository.
"""

from collections.abc import Coroutine
from dataclasses import dataclass
from errno import EADDRINUSE
from typing import Any

from relay import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What helps."""

    #: Lower-case words.
    code: str
    #: What to do next, without a full stop.
    advice: str
    #: A paper and a heading in it.
    place: str


def _remedy(code: str, advice: str, place: str) -> Remedy:
    return Remedy(code=code, advice=advice, place=f"docs/{place}")


_DISK = "operations.md#the-disk-fails-or-may-not-be-written"
#: By class; one that is not here has that of the class above it.
_ERRORS = {
    errors.RelayError: _remedy(
        "failed", "relay check looks at all that relay needs", "operations.md#when-something-breaks"
    ),
    errors.SettingsError: _remedy(
        "settings_wrong",
        "mend each line; relay init writes a first file, relay config show tells where a value is"
        " from",
        "configuration.md#mistakes",
    ),
    errors.ConfigExistsError: _remedy(
        "config_exists",
        "name another file, or look at what is in force: relay config show --config FILE",
        "operations.md#relay-init",
    ),
    errors.JournalError: _remedy(
        "journal_unusable",
        "look at journal.path, or name the file: --journal FILE",
        "configuration.md#journal",
    ),
    errors.JournalLockedError: _remedy(
        "journal_locked",
        "stop the other process, or give each its own journal.path",
        "operations.md#another-process-has-this-identity",
    ),
    errors.JournalForeignError: _remedy(
        "journal_foreign",
        "look at journal.path; a file of a newer relay needs that version",
        "operations.md#the-journal-is-damaged",
    ),
    errors.JournalDamagedError: _remedy(
        "journal_damaged",
        "put the files aside, start with an empty journal, and take the events out of a copy",
        "operations.md#the-journal-is-damaged",
    ),
    errors.JournalNoSpaceError: _remedy(
        "journal_no_space", "make room on the journal's volume", "operations.md#the-disk-is-full"
    ),
    errors.JournalBusyError: _remedy(
        "journal_busy", "end the program that has the journal open: fuser -v FILE", _DISK
    ),
    errors.JournalUnreadableError: _remedy(
        "journal_unreadable", "look at the disk and at the system's log", _DISK
    ),
    errors.JournalDeniedError: _remedy(
        "journal_denied", "let relay's user write the directory and the files in it", _DISK
    ),
    errors.JournalRemoteError: _remedy(
        "journal_remote", "put the journal on a local disk", "configuration.md#journal"
    ),
    errors.PublishError: _remedy(
        "kafka_failed", "relay check asks each broker", "operations.md#kafka-is-down"
    ),
    errors.KafkaUnavailableError: _remedy(
        "kafka_unavailable",
        "see that the brokers run, and can be reached from here at kafka.bootstrap_servers and at"
        " the addresses that they give out",
        "operations.md#kafka-is-down",
    ),
    errors.KafkaRefusedError: _remedy(
        "kafka_refused",
        "give relay's user what Kafka asks for: a login, a right, a limit",
        "operations.md#kafka-refuses",
    ),
    errors.TopicMissingError: _remedy(
        "topics_missing",
        "make the topics, or let relay do it: kafka.create_topics",
        "operations.md#rights-in-kafka",
    ),
    errors.TopicDeniedError: _remedy(
        "topics_denied",
        "give relay's user the right Write on these topics",
        "operations.md#rights-in-kafka",
    ),
    errors.EventNotFoundError: _remedy(
        "event_not_found", "look for it: relay events list", "operations.md#relay-events-list"
    ),
    errors.EventNotReplayableError: _remedy(
        "event_not_replayable",
        "see what became of it: relay events show ID",
        "operations.md#dead-letters-and-replay",
    ),
    errors.HandoverError: _remedy(
        "handover_unusable",
        "name a new file to write, or one that relay events export has written",
        "operations.md#relay-events-export",
    ),
    errors.FeishuUnavailableError: _remedy(
        "feishu_unavailable",
        "try again; see that feishu_url can be reached from here",
        "configuration.md#feishu",
    ),
    errors.FeishuError: _remedy(
        "feishu_refused",
        "compare the app's id, secret and permissions with Feishu's developer console",
        "configuration.md#apps",
    ),
    errors.ClaimsError: _remedy(
        "claims_failed", "relay check asks the claims store", "operations.md#relayclaimsdown"
    ),
    errors.ClaimsUnavailableError: _remedy(
        "claims_unavailable",
        "see that the store of claims.url runs and can be reached from here",
        "operations.md#relayclaimsdown",
    ),
    errors.ClaimsRefusedError: _remedy(
        "claims_refused",
        "compare claims.url with the store's user, password, rights and version",
        "configuration.md#claims",
    ),
    errors.ClaimsEmptiedError: _remedy(
        "claims_emptied",
        "wait: the running replicas fill the store again",
        "configuration.md#claims",
    ),
    errors.ClaimsAwaitedError: _remedy(
        "claims_awaited",
        "start the replica that is waited for, or say that it is gone: relay claims gone NAME",
        "operations.md#relayclaimsawaited",
    ),
    errors.RegistryError: _remedy(
        "registry_refused",
        "see that --registry names a schema registry, and that its user may write",
        "operations.md#relay-schema-register",
    ),
    errors.FencedError: _remedy(
        "fenced",
        "stop one of the two for good, then start this one again",
        "operations.md#another-process-has-this-identity",
    ),
    errors.StoppedWorkingError: _remedy(
        "stopped_working", "start it again, and report it with its log", "operations.md#exit-codes"
    ),
    errors.BrokerError: _remedy(
        "broker_failed",
        "install what relay dev needs: requirements/dev.txt",
        "operations.md#relay-dev",
    ),
}
#: Of findings that are no errors.
WARNINGS = {
    one.code: one
    for one in (
        _remedy(
            "keys_nowhere",
            "compare the path with an event: relay events show ID",
            "configuration.md#keys",
        ),
        _remedy(
            "copies_frail",
            "give the topics three copies, of which two must have each record",
            "operations.md#rights-in-kafka",
        ),
        _remedy(
            "claims_lacking",
            "start the replica that is named; if it is gone for good: relay claims gone NAME",
            "operations.md#relayclaimsawaited",
        ),
        _remedy(
            "claims_evicting",
            "set maxmemory-policy noeviction in the store",
            "configuration.md#claims",
        ),
    )
}
_TAKEN = _remedy(
    "port_taken",
    "end the program that has the port (ss -ltnp), or set another: webhook.port, admin.port",
    "configuration.md#webhook",
)
_SYSTEM = _remedy(
    "system_refused",
    "see that the path is right, and that relay's user may use it",
    "operations.md#exit-codes",
)


def of(error: errors.RelayError | OSError) -> Remedy:
    """Give what helps against an error."""
    if isinstance(error, OSError):
        return _TAKEN if error.errno == EADDRINUSE else _SYSTEM
    return next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)


def every() -> list[Remedy]:
    """Give all that there are."""
    return [*_ERRORS.values(), *WARNINGS.values(), _TAKEN, _SYSTEM]


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; of the errors of its task group the first foreseen one is what counts."""
    import uvloop

    try:
        return uvloop.run(main)
    except* errors.RelayError as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
