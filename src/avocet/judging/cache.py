"""Replies that were paid for once: a content-addressed SQLite file, with the accounts of the calls beside them.

The key of a reply is the sha256 of everything that decides it (`ChatRequest.key`): model name, messages, parameters,
schema, run index and prompt version, but not the server's address. Several processes and threads may use one file
(write-ahead log). A reply and the record of its call are committed together before the caller sees the reply, so a
killed process loses nothing that was answered, and the accounts never miss a call that is in the cache.

Only whole replies are stored. One that was cut off at the token limit, is empty or was withheld by a filter is in the
accounts but not in the cache: the next run asks again.

A damaged file is an error that names it. It is never repaired, emptied or replaced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from avocet.judging.costs import Usage
from avocet.judging.errors import CacheError

_APPLICATION_ID = 0x41564A43
"""In the file's header: tells our files from other programs' SQLite files."""
_VERSION = 1
_WAIT_SECONDS = 30.0
"""How long to wait for another process that is writing."""
_TABLES = (
    """CREATE TABLE replies (
        key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, usage TEXT NOT NULL,
        created REAL NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE calls (
        id INTEGER PRIMARY KEY, created REAL NOT NULL, judge TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL,
        outcome TEXT NOT NULL, detail TEXT, attempts INTEGER NOT NULL, seconds REAL NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL, cost_usd REAL, possible_usd REAL NOT NULL)""",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedReply:
    """A reply as it was received."""

    text: str
    finish_reason: str | None
    usage: Usage
    created: float
    """Unix time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallRecord:
    """One call, for the accounts."""

    judge: str
    model: str
    key: str
    outcome: str
    """"answered", "unusable" or "failed"."""
    detail: str | None = None
    attempts: int
    seconds: float
    usage: Usage
    cost_usd: float | None
    """None: the price is not known."""
    possible_usd: float = 0.0
    """What attempts without a reply may have cost on top."""


class ReplyCache:
    """The cache in one file, which is created when missing. Use it as a context manager, or call `close`.

    Raises `CacheError` when the file is damaged, belongs to another program, was made by a newer version, or stays
    locked, and when its file system cannot hold a write-ahead log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = -1
        self._inherited: list[sqlite3.Connection] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._access():
            pass

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._access() as connection:
            return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])

    def get(self, key: str) -> CachedReply | None:
        """The reply to a key, or None. Raises `CacheError` when the stored reply is not what was stored."""
        with self._access() as connection:
            row = connection.execute(
                "SELECT text, finish_reason, usage, created, digest FROM replies WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        text, finish_reason, usage, created, digest = row
        if digest != _digest(text, finish_reason, usage):
            raise CacheError(f"{self.path}: the reply {key} is damaged; {_REMEDY}")
        return CachedReply(text=text, finish_reason=finish_reason, usage=Usage.from_json(usage), created=float(created))

    def put(self, key: str, reply: CachedReply, call: CallRecord) -> CachedReply:
        """Store a reply with the record of its call. Returns what the cache holds from now on.

        That is another reply when another process has answered the same question in the meantime: the first one
        stays, so that all see the same.
        """
        usage = reply.usage.to_json_line()
        row = (key, call.model, reply.text, reply.finish_reason, usage, reply.created)
        with self._access() as connection, _transaction(connection):
            connection.execute(
                "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (*row, _digest(reply.text, reply.finish_reason, usage)),
            )
            _insert_call(connection, call)
        stored = self.get(key)
        assert stored is not None
        return stored

    def forget(self, key: str) -> None:
        """Remove a reply, so that the question is asked again; its call stays in the accounts."""
        with self._access() as connection, _transaction(connection):
            connection.execute("DELETE FROM replies WHERE key = ?", (key,))

    def record(self, call: CallRecord) -> None:
        """Note a call whose reply is not stored."""
        with self._access() as connection, _transaction(connection):
            _insert_call(connection, call)

    def accounts(self) -> list[dict[str, Any]]:
        """The accounts of everything that was ever asked through this file, one row per judge and model."""
        query = """SELECT judge, model, count(*) AS calls, sum(outcome = 'failed') AS failed,
            sum(outcome = 'unusable') AS unusable, sum(max(attempts - 1, 0)) AS retries,
            sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
            sum(cached_tokens) AS cached_tokens, total(cost_usd) AS cost_usd,
            sum(cost_usd IS NULL AND outcome != 'failed') AS num_unpriced, total(possible_usd) AS possible_usd,
            total(seconds) AS call_seconds, min(created) AS first, max(created) AS last
            FROM calls GROUP BY judge, model ORDER BY judge, model"""
        with self._access() as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def close(self) -> None:
        """Release the file. Closing twice is harmless."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection, self._pid = None, os.getpid()

    @contextmanager
    def _access(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None and self._pid == os.getpid():
                raise CacheError(f"{self.path}: the cache is closed")
            try:
                if self._pid != os.getpid():
                    # A connection must not cross a fork, not even to be closed: SQLite's locks are per process.
                    if self._connection is not None:
                        self._inherited.append(self._connection)
                    self._connection, self._pid = self._open(), os.getpid()
                assert self._connection is not None
                yield self._connection
            except sqlite3.Error as error:
                raise CacheError(f"{self.path}: {error}; {_remedy(error)}") from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._check_kind(connection)
            _enter_wal_mode(connection, self.path)
            # Enough to survive a killed process; a power cut may cost the last replies but never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            self._create_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_kind(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection, "DEFERRED"):  # one view of a file that another process may be creating
            num_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            application_id = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id == 0 and num_tables == 0:
            return
        if application_id != _APPLICATION_ID:
            raise CacheError(f"{self.path}: this is an SQLite file of another program; choose another path")
        if version > _VERSION:
            raise CacheError(
                f"{self.path}: made by a newer Avocet (format {version}, this one knows {_VERSION}); update, or "
                "choose another path"
            )

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            # Another process may have created them since the check.
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _TABLES:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")


_REMEDY = "nothing was changed; restore a copy, or move the file away to start an empty cache"


def _remedy(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return f"another process kept it locked for {_WAIT_SECONDS:g} s"
    if any(words in text for words in ("unable to open", "readonly", "full", "disk I/O")):
        return "check that the path can be written and has space"
    return _REMEDY


def _enter_wal_mode(connection: sqlite3.Connection, path: Path) -> None:
    give_up = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # The change of mode does not wait for other processes that open the same new file.
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise CacheError(f"{path}: this file system cannot hold a write-ahead log; put the cache on a local disk")


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert_call(connection: sqlite3.Connection, call: CallRecord) -> None:
    usage = call.usage
    values = (time.time(), call.judge, call.model, call.key, call.outcome, call.detail, call.attempts, call.seconds)
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, int(usage.estimated))
    connection.execute(
        f"INSERT INTO calls VALUES (NULL{', ?' * 14})",  # noqa: S608  # only placeholders are formatted in
        (*values, *tokens, call.cost_usd, call.possible_usd),
    )


def _digest(text: str, finish_reason: str | None, usage: str) -> str:
    """SQLite does not notice flipped bits inside of a text."""
    content = json.dumps([text, finish_reason, usage], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
