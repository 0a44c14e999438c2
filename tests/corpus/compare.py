#!/usr/bin/env python3
"""The corpus against DuckDB, so that a bug of DataFusion's own does not hide.

    FOLDLINE_CORPUS_OUT=FOLDER cargo test ... corpus      writes rows and merged answers of every case
    python3 tests/corpus/compare.py FOLDER [NAME ...]      asks DuckDB for the same; `make corpus-duckdb` does both

DuckDB reads the events as they arrived (NDJSON with the verdicts late and duplicate), so it checks how they were decoded,
too. Each view's SQL is put to it as it stands, but for what its dialect spells otherwise: `tumble`, and the names of
ordered aggregates, whose order is completed by partition and offset as foldline does. What that does not cover stands in
the case's file as `-- duckdb VIEW: ...` (`none`: it cannot be said). Doubles may differ by 1e-9, averages of decimals by
their last digit. Exit code 1 if a case differs or fewer than 100 agree.
"""

import datetime
import decimal
import json
import math
import re
import sys
from pathlib import Path

import duckdb

AGREED_AT_LEAST = 100
TOLERANCE = 1e-9
ORDERED = {"first_value": "first", "last_value": "last", "nth_value": None, "array_agg": None, "string_agg": None}


# --- SQL ------------------------------------------------------------------------------------------------------------


def closing(sql, opening):
    """Where the bracket at `opening` is closed."""
    depth, quoted = 0, False
    for at in range(opening, len(sql)):
        quoted ^= sql[at] == "'"
        if not quoted:
            depth += (sql[at] == "(") - (sql[at] == ")")
            if depth == 0:
                return at
    raise ValueError(f"no closing bracket: {sql}")


def arguments(inside):
    """Split at the commas outside of brackets."""
    parts, depth, quoted = [""], 0, False
    for character in inside:
        quoted ^= character == "'"
        depth += (character in "([") - (character in ")]") if not quoted else 0
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def calls(sql, names, rewrite):
    """Rewrites every call of one of `names`, the inner ones first."""
    pattern = re.compile(r"\b(" + "|".join(names) + r")\(", re.IGNORECASE)
    at = len(sql)
    while found := list(pattern.finditer(sql, 0, at)):
        call = found[-1]
        at, end = call.start(), closing(sql, call.end() - 1)
        sql = sql[:at] + rewrite(call[1].lower(), sql[call.end() : end], sql[end + 1 :]) + sql[end + 1 :]
    return sql


def tumble(_, inside, __):
    time, size, *more = arguments(inside)
    zone = next((part.split("=>")[1].strip() for part in more if "=>" in part), None)
    offset = next((part for part in more if "=>" not in part), "INTERVAL '0 seconds'")
    days = re.search(r"'(\d+) days?'", size)
    # Weeks begin on Monday.
    origin = "1970-01-05" if days and int(days[1]) % 7 == 0 else "1970-01-01"
    local = f"CAST({time} AS TIMESTAMP)"
    if zone:
        local = f"timezone({zone}, timezone('UTC', {local}))"
    start = f"time_bucket({size}, {local}, TIMESTAMP '{origin}' + {offset})"
    return f"timezone('UTC', timezone({zone}, {start}))" if zone else start


def ordered(completed):
    """The aggregates that look at order, with their orders completed or as they are."""

    def rewrite(name, inside, behind):
        if re.match(r"\s*(IGNORE NULLS )?OVER\b", behind, re.IGNORECASE):
            return f"{name}({inside})"
        if completed and not re.match(r"DISTINCT\b", inside, re.IGNORECASE):
            log = "_partition, _offset"
            inside += f", {log}" if re.search(r"\bORDER BY\b", inside) else f" ORDER BY {log}"
        if name != "nth_value":
            return f"{ORDERED[name] or name}({inside})"
        value, rest = arguments(inside)[0], inside[inside.index(",") + 1 :]
        place, order = rest.split("ORDER BY", 1)
        return f"(array_agg({value} ORDER BY {order}))[{place.strip()}]"

    return rewrite


def dialect(view):
    # A word of DuckDB's own.
    sql = re.sub(r"\bat\b", '"at"', view["sql"])
    sql = calls(sql, ["tumble"], tumble)
    return calls(sql, ORDERED, ordered(completed=not view["own_dialect"]))


# --- rows -----------------------------------------------------------------------------------------------------------


def cell(value):
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, (list, tuple)):
        return [cell(part) for part in value]
    return value


def same(one, other):
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    numbers = (int, float, decimal.Decimal)
    if not isinstance(one, numbers) or not isinstance(other, numbers) or isinstance(one, bool):
        return one == other
    if isinstance(one, float) or isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        decimals = [-value.as_tuple().exponent for value in (one, other) if isinstance(value, decimal.Decimal)]
        last_digit = max((10.0**-scale for scale in decimals), default=0.0)
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=max(last_digit, 1e-12))
    return one == other


def place(row):
    """Rows are compared in this order: by what is no number, by numbers about as large, by integers."""
    number = [isinstance(value, (int, float, decimal.Decimal)) for value in row]
    others = [repr(value) for value, is_number in zip(row, number) if not is_number]
    rough = [f"{float(value):+.6e}" for value, is_number in zip(row, number) if is_number]
    return others, rough, [value for value in row if isinstance(value, int)]


def rows_of(connection, sql):
    return sorted((tuple(map(cell, row)) for row in connection.execute(sql).fetchall()), key=place)


def columns_without_zone(connection, relation):
    columns = []
    for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall():
        plain = kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMP")
        columns.append(f'CAST("{name}" AS {plain}) AS "{name}"' if plain != kind else f'"{name}"')
    return ", ".join(columns)


def load(connection, folder, stream):
    columns = {"_partition": "INTEGER", "_offset": "BIGINT", "_record_time": "TIMESTAMP"}
    columns |= {"_late": "BOOLEAN", "_duplicate": "BOOLEAN"} | dict(stream["columns"])
    # As texts first: a number is not to pass through a double on its way.
    raw = ", ".join(f"'{name}': '{kind if kind.startswith('STRUCT') or '[' in kind else 'VARCHAR'}'" for name, kind in columns.items())
    typed = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in columns.items())
    path = folder / f"{stream['name']}.ndjson"
    source = f"read_json('{path}', format = 'newline_delimited', columns = {{{raw}}})"
    if not path.stat().st_size:
        nothing = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
        source = f"(SELECT {nothing} WHERE false)"
    connection.execute(f"CREATE TABLE {stream['name']}_log AS SELECT {typed} FROM {source}")


def check(folder):
    """`agreed`, `none` or what differs."""
    case = json.loads((folder / "case.json").read_text())
    views = case["views"]
    if not views or any(view["sql"] == "none" for view in views):
        return "none"
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    # Without it, / of integers gives doubles; with it, / of doubles gives no NaN.
    doubles = any(kind == "DOUBLE" for stream in case["streams"] for _, kind in stream["columns"])
    connection.execute(f"SET integer_division = {not doubles}")
    connection.execute("SET default_null_order = 'nulls_last_on_asc_first_on_desc'")
    for stream in case["streams"]:
        load(connection, folder, stream)
    for view in views:
        for stream in case["streams"]:
            kept = "NOT _duplicate" + (" AND NOT _late" if view["drops_late"] else "")
            name = stream["name"]
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {name}_log WHERE {kept}")
        try:
            connection.execute(f"CREATE TABLE {view['name']} AS {dialect(view)}")
        except duckdb.Error as error:
            return f"{view['name']}: DuckDB does not take it: {error}\n{dialect(view)}"
        found = rows_of(connection, f"SELECT {columns_without_zone(connection, view['name'])} FROM {view['name']}")
        answer = f"read_parquet('{folder}/{view['name']}.parquet')"
        merged = rows_of(connection, f"SELECT {columns_without_zone(connection, answer)} FROM {answer}")
        if len(found) != len(merged):
            return f"{view['name']}: {len(merged)} rows, DuckDB has {len(found)}"
        for one, other in zip(merged, found):
            if len(one) != len(other) or not all(map(same, one, other)):
                return f"{view['name']}: {one}, DuckDB has {other}"
    return "agreed"


def main():
    folder, *names = sys.argv[1:]
    cases = sorted(path.parent for path in Path(folder).glob("*/case.json") if not names or path.parent.name in names)
    outcomes = {case.name: check(case) for case in cases}
    for name, outcome in outcomes.items():
        if outcome not in ("agreed", "none"):
            print(f"{name}: {outcome}")
    agreed = sum(outcome == "agreed" for outcome in outcomes.values())
    unsaid = sum(outcome == "none" for outcome in outcomes.values())
    print(f"{agreed} of {len(cases)} files agree with DuckDB {duckdb.__version__}, {unsaid} are not put to it")
    differ = agreed + unsaid < len(cases)
    sys.exit(int(differ or not names and agreed < AGREED_AT_LEAST))


if __name__ == "__main__":
    main()
