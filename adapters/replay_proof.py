"""What became of the records that a replay sent, and whether a balance moved."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from adapters.ledger import Position
from adapters.postgres import Connection
from adapters.queries import load

SQL = load("replay")
STREAMS_SQL = load("streams")


@dataclass(frozen=True, slots=True)
class Balances:
    """All balances and grants at one moment: how many, and SHA-256 over their text."""

    accounts: int
    grants: int
    sha256: str


@dataclass(slots=True)
class Proof:
    """Where the ledger stood before anything was sent, and what is known of what was sent.

    `positions` is partition to (epoch, next offset). `outstanding` holds, by partition, the
    stretches of offsets that were sent and not looked at yet. `unplaced` counts records that the
    broker acknowledged without an offset, which it may do for a retry.
    """

    positions: dict[int, tuple[int, int]]
    before: Balances
    outstanding: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    unplaced: int = 0
    applied: int = 0
    charged: int = 0
    dead: int = 0

    def sent(self, places: Iterable[tuple[int, int]]) -> None:
        """Notes (partition, offset) of records that Kafka acknowledged."""
        for partition, offset in places:
            if offset < 0:
                self.unplaced += 1
                continue
            stretches = self.outstanding.setdefault(partition, [])
            if stretches and stretches[-1][1] == offset:
                stretches[-1] = (stretches[-1][0], offset + 1)
            else:
                stretches.append((offset, offset + 1))

    @property
    def waiting(self) -> int:
        """Records sent that the raters had not applied when `settle` last looked."""
        return sum(to - since for stretches in self.outstanding.values() for since, to in stretches)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the raters made of everything between two moments, the replay's own part apart.

    `others` counts records that were not this run's: other producers', or sent just before a crash.
    `balances` compares every account and grant to the byte.
    """

    charged: int
    duplicate: int
    dead: int
    others: int
    charged_in_all: int
    before: Balances
    after: Balances

    @property
    def balances_identical(self) -> bool:
        """No account and no grant differs in anything."""
        return self.before == self.after


async def read_positions(connection: Connection, topic: str) -> dict[int, Position]:
    """Where the raters stand, by partition; none for a topic that was never rated."""
    rows = await connection.fetch(STREAMS_SQL.read_positions, topic)
    return {
        row["partition"]: Position(
            row["epoch"], row["next_offset"], row["first_offset"], row["last_digest"]
        )
        for row in rows
    }


async def begin(connection: Connection, topic: str) -> Proof:
    """Where everything stands now."""
    positions = await read_positions(connection, topic)
    stands = {partition: (at.epoch, at.next_offset) for partition, at in positions.items()}
    return Proof(stands, await read_balances(connection))


async def settle(connection: Connection, topic: str, proof: Proof) -> int:
    """Looks at what was sent and is applied by now; returns how many records that were."""
    positions = await read_positions(connection, topic)
    done: list[tuple[int, int, int]] = []
    for partition, stretches in proof.outstanding.items():
        at = positions[partition].next_offset if partition in positions else 0
        done += [(partition, since, min(to, at)) for since, to in stretches if since < at]
        proof.outstanding[partition] = [(max(since, at), to) for since, to in stretches if to > at]
    if not done:
        return 0
    epoch = max(position.epoch for position in positions.values())
    row = await connection.fetchrow(SQL.became, topic, epoch, *map(list, zip(*done, strict=True)))
    assert row is not None  # noqa: S101 - an aggregate has one row
    applied = sum(to - since for _, since, to in done)
    proof.applied += applied
    proof.charged += row["charged"]
    proof.dead += row["dead"]
    return applied


async def conclude(connection: Connection, topic: str, proof: Proof) -> Outcome:
    """What it all came to; call it once nothing that was sent waits any more."""
    now = await read_positions(connection, topic)
    row = await connection.fetchrow(SQL.outcomes_between, topic, *_spans(proof.positions, now))
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Outcome(
        charged=proof.charged,
        duplicate=proof.applied - proof.charged - proof.dead,
        dead=proof.dead,
        others=row["charged"] + row["duplicate"] + row["dead"] - proof.applied,
        charged_in_all=row["charged"],
        before=proof.before,
        after=await read_balances(connection),
    )


def _spans(
    before: Mapping[int, tuple[int, int]], now: Mapping[int, Position]
) -> tuple[list[int], list[int], list[int], list[int]]:
    partitions, epochs, starts, ends = [], [], [], []
    for partition, position in now.items():
        epoch, start = before.get(partition, (position.epoch, position.first_offset))
        partitions.append(partition)
        epochs.append(position.epoch)
        starts.append(start if epoch == position.epoch else position.first_offset)
        ends.append(position.next_offset)
    return partitions, epochs, starts, ends


async def read_balances(connection: Connection) -> Balances:
    """One consistent picture of all balances and grants, streamed: the memory is that of a row."""
    digest = hashlib.sha256()

    async def take(data: bytes) -> None:
        digest.update(data)

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        accounts = await connection.copy_from_query(SQL.account_balances, output=take)
        grants = await connection.copy_from_query(SQL.grant_balances, output=take)
    return Balances(_rows(accounts), _rows(grants), digest.hexdigest())


def _rows(status: str) -> int:
    return int(status.rpartition(" ")[2])
