"""A database like a company's: what is in it, what happens to it, what must be there afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

DATABASE = "bss"
TABLES = ("customers", "orders", "invoices")


class Queries(Protocol):
    """The part of a server session that the demo needs."""

    def query(self, sql: str, *args: object) -> list[tuple[object, ...]]: ...


def schema(tablespace_dir: str) -> list[str]:
    """Statements that make the tables: a tablespace, an unlogged table and a large object too."""
    quoted = tablespace_dir.replace("'", "''")
    return [
        f"CREATE TABLESPACE billing LOCATION '{quoted}'",
        """CREATE TABLE customers (
            id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE,
            address text NOT NULL, created_at timestamptz NOT NULL)""",
        """CREATE TABLE orders (
            id bigint PRIMARY KEY, customer_id bigint NOT NULL, placed_at timestamptz NOT NULL,
            status text NOT NULL, total numeric(12,2) NOT NULL, remark text NOT NULL)""",
        """CREATE TABLE invoices (
            id bigint PRIMARY KEY, order_id bigint NOT NULL, issued_on date NOT NULL,
            amount numeric(12,2) NOT NULL, reference text NOT NULL) TABLESPACE billing""",
        "CREATE UNLOGGED TABLE web_sessions (id bigint PRIMARY KEY, token text NOT NULL)",
        "CREATE TABLE contracts (id bigint PRIMARY KEY, scan oid NOT NULL)",
    ]


def filling(scale: float) -> list[str]:
    """Statements that fill it; scale 1 makes about 400 MB."""
    customers, orders = int(150_000 * scale) + 1, int(900_000 * scale) + 1
    return [
        f"""INSERT INTO customers SELECT i, 'Customer ' || i, md5(i::text) || '@example.com',
            md5((i * 7)::text) || ' Street ' || i % 200 || ', ' || md5((i * 13)::text),
            timestamptz '2020-01-01' + i * interval '17 minutes'
            FROM generate_series(1, {customers}) i""",
        f"""INSERT INTO orders SELECT i, 1 + i % {customers},
            timestamptz '2024-01-01' + i * interval '61 seconds',
            (ARRAY['open', 'paid', 'shipped', 'closed'])[1 + i % 4], (i * 37 % 100000) / 100.0,
            md5(i::text) || ' ' || md5((i + 1)::text) FROM generate_series(1, {orders}) i""",
        f"""INSERT INTO invoices SELECT i, i, date '2024-01-01' + (i / 1400)::int,
            (i * 37 % 100000) / 100.0, 'INV-' || md5(i::text) FROM generate_series(1, {orders}) i""",
        "CREATE INDEX orders_by_customer ON orders (customer_id)",
        "INSERT INTO web_sessions SELECT i, md5(i::text) FROM generate_series(1, 1000) i",
        """INSERT INTO contracts SELECT 1, lo_from_bytea(0,
            (SELECT string_agg(sha256(i::text::bytea), ''::bytea)
               FROM generate_series(1, 40000) i))""",
        "ANALYZE",
    ]


def trade(session: Queries, *, batch: int, rows: int) -> None:
    """Ordinary work: new customers, orders and invoices, and changes to old ones.

    `batch` counts up, so that no two calls make the same keys.
    """
    first = 10_000_000 + batch * rows
    last = first + rows - 1
    series = f"generate_series({first}, {last}) i"
    for statement in (
        f"""INSERT INTO customers SELECT i, 'New customer ' || i, md5(i::text) || '@example.org',
            md5(i::text), now() FROM {series}""",
        f"INSERT INTO orders SELECT i, i, now(), 'open', 99.90, md5(i::text) FROM {series}",
        f"INSERT INTO invoices SELECT i, i, current_date, 99.90, 'INV-' || i FROM {series}",
        f"UPDATE orders SET status = 'closed' WHERE id % 997 = {batch % 997}",
    ):
        session.query(statement)


@dataclass(frozen=True)
class Fingerprint:
    """What a database holds, by table: rows and a hash over all of them in order."""

    tables: dict[str, tuple[int, str]]
    contract: str

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.tables.values())


def fingerprint(session: Queries) -> Fingerprint:
    """Reads every row of every table and the large object."""
    tables = {}
    for table in TABLES:
        ((rows, digest),) = session.query(
            f"""SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM {table} t"""
        )
        tables[table] = (int(str(rows)), str(digest))
    ((contract,),) = session.query("SELECT md5(lo_get(scan)) FROM contracts")
    return Fingerprint(tables, str(contract))
