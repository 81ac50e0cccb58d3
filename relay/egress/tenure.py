"""Who am I to Kafka? A pure state machine: what the file and Kafka know in, what follows out.

A journal's offset in Kafka says below which seq its rows are published, and it is signed: by the
process that has opened the journal last (the owner), who names beside it what earlier owners had to
themselves. Copies of a file exist (snapshots, clones, a process that slept), and the same seq is
another event in each. So an offset is believed only as far as its owner and this file are known to
have held the same rows. A file stores its process's signature in a commit before Kafka sees it:

    open (older ones are fenced) ─► rule ─► settle ─► store ─► sign on Kafka ─► note that it has it

S is the file's own last signature, P its predecessor: whose offset Kafka had when S was stored; P
counts until S is known to be on Kafka. *Reach* is the last seq of which an offset under a signature
can speak: what the file held when the next process started (`journal.trusted_seq`); in the process
that has signed, the last seq that it has tried to publish.

| the file's signature | Kafka's owner | offset | then |
|---|---|---|---|
| none: a new name | nobody | 0 | go on |
| none | another | any | replaced: part; a copy has used the name first |
| not written: version 2 | any, or nobody | within reach | settle below it, as version 2 did |
| not written | any | beyond reach | older: settle up to reach, part |
| S | S | within reach | settle below it |
| S, an earlier process's | S | beyond reach | older: settle up to reach, part |
| S, this process's | S | beyond reach | older: part; its memory went back in time with the file |
| S, perhaps not on Kafka | P, or nobody as P was | any | as with S, by P's reach: S never came |
| S | nobody | - | forgotten: nobody is not me; part, own claims come along |
| S, on Kafka, this process's | another | any | replaced: settle what is not ours alone; ended |
| S, an earlier process's | another, who names S or P | any | settle below N, part |
| S, an earlier process's | another, who names neither | any | settle nothing, part |

*Part*: take a new name (group, transactional id, claims) and begin at the first line. *Ended*: the
process ends, and its file has a new name; another one runs under the old. *Ours alone*: from the
seq on that the owner has noted for S when it signed. N is the least of that seq, of the offset
(what the other one has not published may be gone with it) and of reach + 1. Only the latest TENURES
owners are named; a file that is older settles nothing, and publishes once more what it holds.

A coordinator that has just come up may tell an offset of some seconds ago until something is
written to it. So `open` writes before it reads; and who looks without opening does not believe in
an owner whom this process has followed, but opens.

How long Kafka has been silent is no part of this: the dispatcher has it confirmed before it claims.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from relay.journal.rows.identity import UNWRITTEN, Identity

#: Earlier owners that an offset's metadata names: Kafka takes 4,096 bytes of it.
TENURES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What Kafka knows of a journal: its offset, whose it is, what earlier owners had alone."""

    offset: int = 0
    #: Signature of the process that has opened the journal last; empty if there is no offset.
    owner: str = ""
    #: From which seq on, by signature, the latest first.
    alone_from: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, offset: int, metadata: str) -> Self:
        """Read what `metadata` has written; -1 is no offset."""
        owner, *names = metadata.split() or [""]
        parts = (name.partition("@") for name in names)
        alone_from = {name: int(seq) for name, _, seq in parts}
        return cls(offset=max(offset, 0), owner=owner, alone_from=alone_from)

    def metadata(self) -> str:
        """Write it to be kept beside the offset."""
        names = [f"{name}@{seq}" for name, seq in self.alone_from.items()]
        return " ".join([self.owner, *names[:TENURES]])


class Step(StrEnum):
    """What follows."""

    SETTLE = "settle"
    PART = "part"
    ENDED = "ended"


class Why(StrEnum):
    """Why a journal cannot go on under its name."""

    #: Kafka knows more of it than its file has ever held.
    OLDER = "older"
    #: Another process has signed since.
    REPLACED = "replaced"
    #: Kafka knows nothing of what it knew.
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A step, and below which seq the rows are settled first."""

    step: Step
    below: int = 0
    #: None where the journal goes on under its name.
    why: Why | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """One process and the name of its journal."""

    file: Identity
    #: The last seq that this process has tried to publish under its signature.
    sent: int = 0
    #: Owners that this process has followed.
    earlier: frozenset[str] = frozenset()

    @property
    def stored(self) -> bool:
        """Whether the file's signature is this process's: every start seals an earlier one."""
        return self.file.reach is None

    @property
    def held(self) -> bool:
        """Whether Kafka is known to have had this process as the owner."""
        return self.stored and self.file.predecessor is None

    def outdated(self, place: Place) -> bool:
        """Whether Kafka tells what was before this process became the owner.

        A coordinator that has just come up does, until something is written to it.
        """
        return self.held and place.owner in self.earlier

    def rule(self, place: Place) -> Ruling:
        """Say what follows from Kafka's word; the table above, line by line."""
        reach = self._reach(place.owner)
        if reach is None:
            return self._not_mine(place)
        if place.offset > reach + 1:
            # Under our own signature while we run, a twin has used it, and it may have other rows.
            twin = self.stored and place.owner == self.file.signature
            return Ruling(step=Step.PART, below=0 if twin else reach + 1, why=Why.OLDER)
        return Ruling(step=Step.SETTLE, below=place.offset)

    @property
    def reach(self) -> int:
        """The last seq of which an offset under the file's signature can speak."""
        return self.sent if self.file.reach is None else self.file.reach

    def _reach(self, owner: str) -> int | None:
        """Give the last seq of which this owner's offset can speak; None: it is not ours."""
        if owner == self.file.predecessor:
            return self.file.predecessor_reach
        if self.file.signature in {owner, UNWRITTEN}:
            return self.reach
        return None

    def _not_mine(self, place: Place) -> Ruling:
        if not place.owner:
            return Ruling(step=Step.PART, why=Why.FORGOTTEN)
        alone_from, reach = self._alone(place)
        if self.held:
            return Ruling(step=Step.ENDED, below=alone_from, why=Why.REPLACED)
        beyond = self.file.reach is not None and place.offset > self.file.reach + 1
        why = Why.OLDER if beyond else Why.REPLACED
        return Ruling(step=Step.PART, below=min(place.offset, alone_from, reach + 1), why=why)

    def _alone(self, place: Place) -> tuple[int, int]:
        """Give from which seq on this file's rows are its alone, and its reach; 0: nobody knows."""
        file = self.file
        for signature, reach in (
            (file.signature, file.reach),
            (file.predecessor, file.predecessor_reach),
        ):
            if signature and signature in place.alone_from:
                alone_from = place.alone_from[signature]
                # All rows came while the signature was this file's.
                return alone_from, alone_from if reach is None else reach
        return 0, 0

    def signing(self, signature: str, place: Place) -> "Tenure":
        """Follow `place`, which was ruled to be ours: to be stored before Kafka gets to see it."""
        reach = self._reach(place.owner)
        file = replace(
            self.file,
            signature=signature,
            reach=None,
            predecessor=place.owner,
            predecessor_reach=reach or 0,
        )
        earlier = frozenset(filter(None, (place.owner, *place.alone_from)))
        return replace(self, file=file, sent=max(place.offset - 1, 0), earlier=earlier)

    def successor(self, place: Place) -> Place:
        """Give what Kafka is to know once this process is the owner."""
        alone_from = dict(place.alone_from)
        alone_from.pop(self.file.signature, None)
        if place.owner and place.owner != self.file.signature:
            alone_from.pop(place.owner, None)
            first = max(place.offset, self.file.predecessor_reach + 1)
            alone_from = {place.owner: first, **alone_from}
        return Place(offset=place.offset, owner=self.file.signature, alone_from=alone_from)

    def signed(self) -> "Tenure":
        """Kafka has our signature: nobody else's offset is ours any more."""
        return replace(self, file=replace(self.file, predecessor=None, predecessor_reach=0))

    def sending(self, last_seq: int) -> "Tenure":
        """What is committed from now on may speak of rows up to `last_seq`."""
        return replace(self, sent=max(self.sent, last_seq))

    def renewed(self, new_id: str, why: Why, last_seq: int) -> "Tenure":
        """Part from the name; `last_seq` is the last row that may have been claimed under it."""
        file = self.file
        if why is Why.FORGOTTEN:
            former = f"{file.former_ids} {file.id}".strip()
            return Tenure(file=Identity(id=new_id, former_ids=former, former_seq=last_seq))
        return Tenure(
            file=Identity(id=new_id, former_ids=file.former_ids, former_seq=file.former_seq)
        )
