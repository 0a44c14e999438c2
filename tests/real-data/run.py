#!/usr/bin/env python3
"""Foldline against DuckDB over real data: imports, answers, kills, rubbish.

    python3 tests/real-data/run.py --data FOLDER --foldline target/release/foldline [PART ...]

Parts: compare, kills, rubbish; all of them if none is named. Over another log or store: --set log.kind=kafka
--set log.brokers=... --set store.url=s3://bucket/{part} (kills needs the embedded log). --answers FOLDER keeps the answers
of compare, to be compared with those of another log and store byte by byte. Needs Python 3.11 and the package duckdb; `make real-data`
sees to both. Exit code 1 if anything differs; what differs is printed with the folder that shows it (kept then).
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import duckdb

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PARTITIONS = 8
PARQUET = "application/vnd.apache.parquet"


# --- the data -------------------------------------------------------------------------------------------------------


class Stream:
    """Files of a stream in import order, how `foldline import` and DuckDB read them, and what is cut off in them."""

    def __init__(self, name, files, flags, load, key, lateness, cut_off=()):
        self.name, self.files, self.flags, self.load = name, files, flags, load
        self.key, self.lateness, self.cut_off = key, lateness, list(cut_off)


def streams(data):
    """The four streams. `load` gives the good rows, in file order, with their event time in `happened`."""
    reviews = [
        data / "reviews/amazon_us_digital_software_2008-01_2014-06.tsv.gz",
        data / "reviews/amazon_us_mobile_electronics_sample.tsv",
    ]
    clicks = data / "clickstream"
    taobao = [clicks / "taobao_user_behavior_2017-11-26_96k.csv.gz"]
    rees46 = [clicks / "rees46_multicategory_2019-10-01_17k.csv.gz"]
    globo = sorted((clicks / "globo_news_clicks").glob("clicks_hour_*.csv.gz"))
    lines = "delim = '\\x01', quote = '', escape = '', header = false, columns = {'line': 'VARCHAR'}"
    return [
        Stream(
            "reviews",
            reviews,
            [],
            """SELECT *, review_date::TIMESTAMP AS happened
               FROM read_csv({file}, delim = '\t', quote = '', escape = '', header = true, all_varchar = false,
                 max_line_size = 10000000, strict_mode = true, null_padding = false, auto_detect = false, columns = {{
                 'marketplace': 'VARCHAR', 'customer_id': 'VARCHAR', 'review_id': 'VARCHAR', 'product_id': 'VARCHAR',
                 'product_parent': 'VARCHAR', 'product_title': 'VARCHAR', 'product_category': 'VARCHAR',
                 'star_rating': 'INTEGER', 'helpful_votes': 'INTEGER', 'total_votes': 'INTEGER', 'vine': 'VARCHAR',
                 'verified_purchase': 'VARCHAR', 'review_headline': 'VARCHAR', 'review_body': 'VARCHAR',
                 'review_date': 'DATE'}})""",
            "product_id",
            "INTERVAL 2 DAY",
        ),
        Stream(
            "taobao",
            taobao,
            ["--no-header", "--columns", "user_id,item_id,category_id,behavior,ts"],
            """SELECT * REPLACE (make_timestamp(ts * 1000000) AS ts), make_timestamp(ts * 1000000) AS happened
               FROM read_csv({file}, auto_detect = false, header = false, columns = {{'user_id': 'BIGINT',
                 'item_id': 'BIGINT', 'category_id': 'BIGINT', 'behavior': 'VARCHAR', 'ts': 'BIGINT'}})
               WHERE ts > 1000000000""",
            "user_id",
            "INTERVAL 1 MINUTE",
            ["301780"],
        ),
        # The fields of REES46 hold neither quotes nor commas; a split does not stumble over the line cut off.
        Stream(
            "rees46",
            rees46,
            [],
            f"""SELECT strptime(f[1], '%Y-%m-%d %H:%M:%S UTC') AS event_time, f[2] AS event_type,
                       f[3]::BIGINT AS product_id, nullif(f[4], '')::BIGINT AS category_id,
                       nullif(f[5], '') AS category_code, nullif(f[6], '') AS brand, f[7]::DECIMAL(12, 2) AS price,
                       f[8]::BIGINT AS user_id, f[9] AS user_session,
                       strptime(f[1], '%Y-%m-%d %H:%M:%S UTC') AS happened
                FROM (SELECT string_split(rtrim(line, chr(13)), ',') AS f
                      FROM read_csv({{file}}, auto_detect = false, {lines.replace('{', '{{').replace('}', '}}')}))
                WHERE len(f) = 9 AND f[1] <> 'event_time'""",
            "user_id",
            "INTERVAL 0 SECOND",
            ["52040330"],
        ),
        Stream(
            "globo",
            globo,
            [],
            """SELECT * REPLACE (make_timestamp(click_timestamp * 1000) AS click_timestamp),
                      make_timestamp(click_timestamp * 1000) AS happened
               FROM read_csv({file}, auto_detect = false, header = true, columns = {{'user_id': 'BIGINT',
                 'session_id': 'BIGINT', 'session_start': 'BIGINT', 'session_size': 'INTEGER',
                 'click_article_id': 'BIGINT', 'click_timestamp': 'BIGINT', 'click_environment': 'INTEGER',
                 'click_deviceGroup': 'INTEGER', 'click_os': 'INTEGER', 'click_country': 'INTEGER',
                 'click_region': 'INTEGER', 'click_referrer_type': 'INTEGER'}})""",
            "user_id",
            "INTERVAL 14 DAY",
        ),
    ]


# The same views in DuckDB, over every row; `timely` leaves out the rows that the log judges late.
EXPECTED = {
    "products": """SELECT product_id, sum(star_rating)::DOUBLE / count(star_rating), sum(helpful_votes),
        sum(total_votes), count(*), min(review_date), max(review_date) FROM reviews GROUP BY 1""",
    "product_days": """SELECT product_id, review_date, sum(star_rating)::DOUBLE / count(star_rating),
        sum(helpful_votes), sum(total_votes), count(*) FROM timely_reviews GROUP BY 1, 2""",
    "product_seasons": """SELECT product_id, month(review_date), count(*), sum(helpful_votes), sum(total_votes)
        FROM timely_reviews GROUP BY 1, 2""",
    "taobao_behaviors": """SELECT behavior, count(*), count(DISTINCT user_id), count(DISTINCT item_id), min(ts), max(ts)
        FROM taobao GROUP BY 1""",
    "taobao_users": """SELECT user_id, count(*), count(*) FILTER (WHERE behavior = 'pv'),
        count(*) FILTER (WHERE behavior = 'buy'), count(DISTINCT category_id), min(ts), max(ts)
        FROM taobao GROUP BY 1""",
    "taobao_categories": """SELECT category_id, count(*), count(DISTINCT user_id), count(DISTINCT item_id),
        min(item_id), max(item_id) FROM taobao GROUP BY 1""",
    "taobao_buyers": """SELECT buys, count(*), sum(events) FROM (SELECT count(*) FILTER (WHERE behavior = 'buy') AS buys,
        count(*) AS events FROM taobao GROUP BY user_id) GROUP BY 1""",
    "taobao_minutes": """SELECT date_trunc('minute', ts), behavior, count(*), count(DISTINCT user_id)
        FROM timely_taobao GROUP BY 1, 2""",
    "rees46_brands": """SELECT brand, count(*), sum(price), min(price), max(price), count(DISTINCT user_id),
        count(category_code) FROM rees46 GROUP BY 1""",
    "rees46_categories": """SELECT category_id, event_type, count(*), sum(price), count(DISTINCT product_id)
        FROM rees46 GROUP BY 1, 2""",
    "rees46_users": """SELECT user_id, min(event_time), max(event_time), count(*) FILTER (WHERE event_type = 'purchase'),
        sum(price) FILTER (WHERE event_type = 'purchase'), count(DISTINCT user_session) FROM rees46 GROUP BY 1""",
    "rees46_sessions": """SELECT user_session, list(event_type ORDER BY event_time, part, place),
        list(product_id ORDER BY event_time, part, place), first(product_id ORDER BY event_time, part, place),
        last(product_id ORDER BY event_time, part, place) FROM rees46 GROUP BY 1""",
    "rees46_hours": """SELECT date_trunc('hour', event_time), minute(event_time), count(*), sum(price)
        FROM rees46 GROUP BY 1, 2""",
    "rees46_windows": """SELECT time_bucket(INTERVAL 10 MINUTE, event_time), event_type, count(*), sum(price),
        count(DISTINCT user_session) FROM timely_rees46 GROUP BY 1, 2""",
    "globo_users": """SELECT user_id, count(*), count(DISTINCT session_id), count(DISTINCT click_article_id),
        min(click_timestamp), max(click_timestamp) FROM globo GROUP BY 1""",
    "globo_articles": """SELECT click_article_id, count(*), count(DISTINCT user_id), sum(session_size),
        max(session_start) FROM globo GROUP BY 1""",
    "globo_sessions": """SELECT session_id, count(*), max(session_size), min(click_timestamp), max(click_timestamp)
        FROM globo GROUP BY 1""",
    "globo_whole": "SELECT true, count(DISTINCT session_id), count(*) FROM globo",
    "globo_days": """SELECT date_trunc('day', click_timestamp)::TIMESTAMP, click_referrer_type, count(*),
        count(DISTINCT user_id) FROM globo GROUP BY 1, 2""",
    "globo_hours": """SELECT date_trunc('hour', click_timestamp), count(*), count(DISTINCT user_id)
        FROM timely_globo GROUP BY 1""",
    "globo_article_days": """SELECT click_article_id, date_trunc('day', click_timestamp)::TIMESTAMP, count(*),
        min(click_timestamp) FROM timely_globo GROUP BY 1, 2""",
}


def partition_of(key):
    """Kafka's default partitioner, in its own words: murmur2 of the bytes of the key."""
    data, mask = key.encode(), 0xFFFFFFFF
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        mixed = int.from_bytes(data[at : at + 4], "little") * 0x5BD1E995 & mask
        value = (value * 0x5BD1E995 & mask) ^ ((mixed ^ mixed >> 24) * 0x5BD1E995 & mask)
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * 0x5BD1E995 & mask
    value = (value ^ value >> 13) * 0x5BD1E995 & mask
    return ((value ^ value >> 15) & 0x7FFFFFFF) % PARTITIONS


def load(everything):
    """Every good row in DuckDB with its place in its partition, and whether the log must judge it late (D4)."""
    duck = duckdb.connect()
    duck.execute("SET TimeZone = 'UTC'")
    for stream in everything:
        for number, file in enumerate(stream.files):
            select = stream.load.format(file=f"'{file}'")
            order = "CREATE TABLE raw_{0} AS SELECT 0 AS file, * FROM ({1})" if number == 0 else (
                "INSERT INTO raw_{0} SELECT {2}, * FROM ({1})"
            )
            duck.execute(order.format(stream.name, select, number))
        keys = duck.execute(f"SELECT DISTINCT {stream.key}::VARCHAR FROM raw_{stream.name}").fetchall()
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as parts:
            parts.write("key,part\n" + "".join(f"{key},{partition_of(key)}\n" for (key,) in keys))
            parts.flush()
            duck.execute(f"""CREATE TABLE part_{stream.name} AS SELECT * FROM
                read_csv('{parts.name}', header = true, columns = {{'key': 'VARCHAR', 'part': 'INTEGER'}})""")
        # No event time lies ahead of the record time, so that nothing is clamped: late is what lies further than the
        # lateness behind the largest event time before it in its partition.
        duck.execute(f"""CREATE TABLE {stream.name} AS
            SELECT *, coalesce(happened < before - {stream.lateness}, false) AS late FROM (
              SELECT *, max(happened) OVER (PARTITION BY part ORDER BY place
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
              FROM (SELECT r.*, r.rowid AS place, p.part FROM raw_{stream.name} r
                    JOIN part_{stream.name} p ON p.key = r.{stream.key}::VARCHAR))""")
        duck.execute(f"CREATE VIEW timely_{stream.name} AS SELECT * FROM {stream.name} WHERE NOT late")
        rows, late, latest = duck.execute(
            f"SELECT count(*), count(*) FILTER (WHERE late), max(happened) < now()::TIMESTAMP FROM {stream.name}").fetchone()
        assert latest, f"{stream.name} has event times ahead of the clock"
        stream.rows = rows
        print(f"  {stream.name}: {len(stream.files)} files, {rows} good rows, {late} of them late", flush=True)
    return duck


# --- foldline -------------------------------------------------------------------------------------------------------


class Foldline:
    """One installation in a folder of its own; started and killed at will."""

    started = []

    def __init__(self, options, folder):
        binary = options.foldline
        self.binary, self.folder, self.process, self.url = str(binary), folder, None, None
        Foldline.started.append(self)
        folder.mkdir(parents=True)
        shutil.copytree(HERE / "pipelines", folder / "pipelines")
        shutil.copytree(REPOSITORY / "sql/pipelines/reviews", folder / "pipelines/reviews")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FOLDLINE__")}
        self.environment |= {
            "FOLDLINE__DATA_DIR": str(folder / "data"),
            "FOLDLINE__PIPELINES": str(folder / "pipelines"),
            "FOLDLINE__SPEED__CUT_EVERY_MS": "1000",
            "FOLDLINE__BATCH__SCHEDULE": "",
        }
        for setting in options.set:
            key, _, value = setting.partition("=")
            variable = "FOLDLINE__" + key.replace(".", "__").upper()
            self.environment[variable] = value.replace("{part}", folder.name)
        if self.environment.get("FOLDLINE__LOG__KIND") == "kafka":
            # Brokers outlive an installation: topics of its own.
            life = f"{random.randrange(1 << 32):08x}"
            self.environment["FOLDLINE__LOG__PROGRESS_TOPIC"] = f"{life}-progress"
            for file in (folder / "pipelines").rglob("*.sql"):
                file.write_text(file.read_text().replace("topic = '", f"topic = '{life}-"))

    def start(self):
        # The port is the system's: its number is told in the file `address`.
        address = self.folder / "data/address"
        address.unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "run", "--listen", "127.0.0.1:0"], env=self.environment, stdout=log, stderr=log)
        began = time.monotonic()
        while time.monotonic() - began < 120:
            if self.process.poll() is not None:
                raise RuntimeError(f"foldline ended with {self.process.returncode}: see {self.folder / 'log'}")
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.url = json.loads(address.read_text())["url"]
                if self.ask("GET", "/readyz")[0] == 200:
                    return time.monotonic() - began
            time.sleep(0.05)
        raise RuntimeError(f"foldline is not ready after two minutes: see {self.folder / 'log'}")

    def caught_up(self):
        """Waits until every record of the log is in the answers; how long that took, and how many were not at first."""
        began, behind = time.monotonic(), None
        while time.monotonic() - began < 300:
            told = self.json("status")["streams"]
            lag = sum(partition["lag"] for stream in told for partition in stream["partitions"])
            behind = lag if behind is None else behind
            if lag == 0:
                return time.monotonic() - began, behind
            time.sleep(0.1)
        raise RuntimeError(f"the answers are still {lag} records behind after five minutes")

    def log_bytes(self):
        return sum(file.stat().st_size for file in (self.folder / "data/log").rglob("*") if file.is_file())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        if self.process and self.alive():
            self.kill()

    def stop(self):
        self.process.terminate()
        return self.process.wait(120)

    def alive(self):
        return self.process.poll() is None

    def command(self, *words):
        return subprocess.Popen(
            [self.binary, *map(str, words)], env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words, expect=(0,)):
        """A command to its end: its exit code, what it printed, what it complained about."""
        command = self.command(*words)
        out, err = command.communicate(timeout=900)
        if expect and command.returncode not in expect:
            raise RuntimeError(f"foldline {' '.join(map(str, words))[:300]} ended with {command.returncode}: {err or out}")
        return command.returncode, out, err

    def json(self, *words, expect=(0,)):
        return json.loads(self.run(*words, "--format", "json", expect=expect)[1])

    def ask(self, method, path, body=None, headers=None, timeout=300):
        """Status, headers and body of an answer; 0 where the connection ended instead."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()
        except (OSError, ValueError) as error:
            return 0, {}, str(error).encode()

    def query(self, sql, accept=PARQUET, **modes):
        body = json.dumps({"sql": sql, **modes}).encode()
        status, _, answer = self.ask(
            "POST", "/v1/query", body, {"content-type": "application/json", "accept": accept})
        if status != 200:
            raise RuntimeError(f"{sql}: {status} {answer[:500]!r}")
        return answer

    def put(self, stream, body, **headers):
        headers = {"content-type": "application/x-ndjson"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.ask("POST", f"/v1/streams/{stream}/events", body, headers)


class Findings:
    """What was found wrong, and the table of what was compared."""

    def __init__(self):
        self.wrong, self.table, self.figures = [], [], []

    def check(self, holds, what):
        if not holds:
            self.wrong.append(what)
            print(f"  WRONG: {what}", flush=True)
        return holds

    def figure(self, text):
        self.figures.append(text)
        print(f"  {text}", flush=True)


def normal(duck, relation):
    """The columns of a relation by position, instants as microseconds: what two engines can agree on."""
    kinds = [kind for _, kind, *_ in duck.execute(f"DESCRIBE {relation}").fetchall()]
    names = ", ".join(f"c{n}" for n in range(len(kinds)))
    return "SELECT " + ", ".join(
        f"epoch_us(c{n}) AS c{n}" if kind.startswith("TIMESTAMP") else f"c{n}" for n, kind in enumerate(kinds)
    ) + f" FROM {relation} AS r({names})"


def snapshot(duck, foldline, prefix, **modes):
    """Every view as it answers now, each in a table."""
    for view in EXPECTED:
        file = foldline.folder / "answer.parquet"
        file.write_bytes(foldline.query(f"SELECT * FROM {view}", **modes))
        duck.execute(f"CREATE OR REPLACE TABLE {prefix}_{view} AS SELECT * FROM '{file}'")


def differences(duck, one, other):
    """Rows of either that the other does not have, as often."""
    one, other = normal(duck, one), normal(duck, other)
    return duck.execute(f"({one} EXCEPT ALL {other}) LIMIT 3").fetchall(), duck.execute(
        f"({other} EXCEPT ALL {one}) LIMIT 3").fetchall()


def compare(duck, foldline, findings, when):
    """Every view against plain SQL over the files."""
    for view, sql in EXPECTED.items():
        # Where a stream has no rows yet there is nothing to compare: kills leaves none out, neither does compare.
        if not duck.execute(f"SELECT 1 FROM duckdb_tables() WHERE table_name = 'expected_{view}'").fetchall():
            duck.execute(f"CREATE TABLE expected_{view} AS {sql}")
    snapshot(duck, foldline, "now")
    for view in EXPECTED:
        (keys,) = duck.execute(f"SELECT count(*) FROM expected_{view}").fetchone()
        surplus, missing = differences(duck, f"now_{view}", f"expected_{view}")
        equal = not surplus and not missing
        findings.table.append((when, view, keys, "equal" if equal else "DIFFERENT"))
        findings.check(equal, f"{when}: {view} answers {surplus}, plain SQL {missing}")
    print(f"  {when}: {len(EXPECTED)} views compared with plain SQL", flush=True)


def audit(foldline, findings, when, everything, total):
    """What foldline says of itself, its dead letters, and that every row is there once."""
    verified = foldline.json("verify", "--all", expect=(0, 1))
    for view in verified:
        findings.check(view["equal"], f"{when}: verify says {view}")
    findings.check(len(verified) == len(EXPECTED), f"{when}: verify knows {len(verified)} views")
    code, out, err = foldline.run("archive", "audit", expect=(0, 1))
    findings.check(code == 0, f"{when}: archive audit says {out}{err}")
    for stream in everything:
        letters = foldline.json("archive", "dead-letters", "--stream", stream.name)
        held = [letter for cut in stream.cut_off for letter in letters if cut in json.dumps(letter)]
        findings.check(
            len(letters) == len(stream.cut_off) == len(held), f"{when}: dead letters of {stream.name}: {letters}")
    # Not by offsets: on Kafka some hold no record.
    audited = foldline.json("archive", "audit", expect=(0, 1))
    for stream in everything:
        ours = [row for row in audited if row["partition"].split("/")[0].endswith(stream.name)]
        archived = sum(int(row["rows"]) + int(row["dead_letters"]) for row in ours)
        records = stream.rows + len(stream.cut_off)
        findings.check(archived == records, f"{when}: {archived} of {records} records of {stream.name} are archived")
    print(f"  {when}: verify, audit, dead letters and {total} records looked at", flush=True)


# --- the parts ------------------------------------------------------------------------------------------------------


def part_compare(options, everything, duck, folder, findings):
    foldline = Foldline(options, folder)
    foldline.start()
    total = sum(stream.rows + len(stream.cut_off) for stream in everything)
    globo = next(stream for stream in everything if stream.name == "globo")
    third = len(globo.files) // 3
    # Imports with batch runs in between; the last files of globo stay in the speed layer until the end.
    steps = [(stream, stream.files) for stream in everything if stream is not globo]
    steps += [(globo, globo.files[:third]), (globo, globo.files[third : 2 * third]), (globo, globo.files[2 * third :])]
    times = {}

    def batch(*flags):
        # The cut lies at a tick: what came in just now shall be below it.
        time.sleep(1.5)
        snapshot(duck, foldline, "before")
        began = time.monotonic()
        (run,) = foldline.json("batch", "run", *flags)
        took = time.monotonic() - began
        snapshot(duck, foldline, "after")
        for view in EXPECTED:
            surplus, missing = differences(duck, f"after_{view}", f"before_{view}")
            findings.check(not surplus and not missing, f"generation {run['generation']} changed {view}: {surplus} {missing}")
        findings.figure(f"batch {run['kind']}: generation {run['generation']}, {run['rows']} rows, {run['keys']} keys, "
                        f"{run['elapsed_ms']} ms by itself, {took:.1f} s with waiting")

    for number, (stream, files) in enumerate(steps):
        began = time.monotonic()
        reports = foldline.json("import", *files, "--stream", stream.name, "--wait", *stream.flags)
        took = time.monotonic() - began
        appended = sum(report["appended"] for report in reports)
        times[stream.name] = [a + b for a, b in zip(times.get(stream.name, (0, 0)), (appended, took))]
        if number in (0, 2, 4):
            batch()
    for name, (rows, took) in times.items():
        findings.figure(f"import {name} --wait: {rows} rows in {took:.1f} s, {rows / took:,.0f} rows/s")
    compare(duck, foldline, findings, "batch and speed")

    for stream in everything:
        for report in foldline.json("import", *stream.files, "--stream", stream.name, "--wait", *stream.flags):
            findings.check(report["appended"] == 0 and report["already_imported"], f"imported again: {report}")
    batch("--full")
    compare(duck, foldline, findings, "after --full")
    if options.answers:
        options.answers.mkdir(parents=True, exist_ok=True)
        for view in EXPECTED:
            rows = foldline.query(f"SELECT * FROM {view}", "text/csv").splitlines(keepends=True)
            (options.answers / f"{view}.csv").write_bytes(b"".join(rows[:1] + sorted(rows[1:])))
    began = time.monotonic()
    audit(foldline, findings, "after --full", everything, total)
    findings.figure(f"verify --all, audit, dead letters: {time.monotonic() - began:.1f} s")

    # The marks of every row, as the archive has them.
    for stream in everything:
        key = stream.key
        file = folder / "rows.parquet"
        try:
            file.write_bytes(foldline.query(
                f"SELECT {key}, _partition, _late, _duplicate, count(*) AS n FROM {stream.name} GROUP BY 1, 2, 3, 4",
                batch_only=True))
        except RuntimeError as error:
            findings.check(False, f"rows of {stream.name}: {error}")
            continue
        duck.execute(f"CREATE OR REPLACE TABLE marks AS SELECT * FROM '{file}'")
        duck.execute(f"""CREATE OR REPLACE TABLE expected_marks AS
            SELECT {key}, part, late, false, count(*) FROM {stream.name} GROUP BY 1, 2, 3, 4""")
        surplus, missing = differences(duck, "marks", "expected_marks")
        equal = findings.check(
            not surplus and not missing, f"marks of {stream.name}: {surplus}, by the files {missing}")
        (keys,) = duck.execute("SELECT count(*) FROM expected_marks").fetchone()
        findings.table.append(("marks", stream.name, keys, "equal" if equal else "DIFFERENT"))

    # The command line gives what HTTP gives, and look-ups by key give the row of that key.
    for view in EXPECTED:
        (keys,) = duck.execute(f"SELECT count(*) FROM expected_{view}").fetchone()
        if keys <= 5000:
            printed = foldline.run("query", f"SELECT * FROM {view}", "--format", "csv")[1].splitlines()
            sent = foldline.query(f"SELECT * FROM {view}", "text/csv").decode().splitlines()
            findings.check(sorted(printed) == sorted(sent), f"query prints other rows of {view} than HTTP sends")
    for view, key in [("products", "product_id"), ("globo_users", "user_id"), ("rees46_categories", "category_id")]:
        for value, rows in duck.execute(
                f"SELECT c0, count(*) FROM ({normal(duck, f'expected_{view}')}) WHERE c0 IS NOT NULL "
                "GROUP BY 1 ORDER BY hash(c0) LIMIT 50").fetchall():
            status, _, body = foldline.ask("GET", f"/v1/views/{view}?{key}={value}")
            found = json.loads(body)
            findings.check(status == 200 and [row[key] for row in found["data"]] == [value] * rows,
                           f"GET /v1/views/{view}?{key}={value}: {status} {body[:300]!r}")

    findings.check(foldline.stop() == 0, "foldline did not stop with 0")
    began = foldline.start()
    took, behind = foldline.caught_up()
    findings.figure(f"restart: ready after {began:.1f} s, {behind} records behind, none {took:.1f} s later")
    compare(duck, foldline, findings, "after a restart")
    foldline.stop()


def part_kills(options, everything, duck, folder, findings):
    foldline = Foldline(options, folder)
    foldline.start()
    total = sum(stream.rows + len(stream.cut_off) for stream in everything)
    chance = random.Random(options.seed)
    # Every round has files of its own to be killed in.
    jobs = [(stream, stream.files) for stream in everything if stream.name != "globo"]
    globo = next(stream for stream in everything if stream.name == "globo")
    parts = max(1, options.rounds - len(jobs))
    cuts = [len(globo.files) * n // parts for n in range(parts + 1)]
    jobs += [(globo, globo.files[a:b]) for a, b in zip(cuts, cuts[1:])]
    # Rows a second, about: what is left of a file at the kill is chance.
    rate = 50_000.0
    for number, (stream, files) in enumerate(jobs):
        (rows,) = duck.execute(
            f"SELECT count(*) FROM {stream.name} WHERE file BETWEEN ? AND ?",
            [stream.files.index(files[0]), stream.files.index(files[-1])]).fetchone()
        words = ["import", *files, "--stream", stream.name, *stream.flags]
        # Killed once, twice or three times, then to the end.
        for _ in range(chance.randint(1, 3)):
            size = foldline.log_bytes()
            import_ = foldline.command(*words)
            batch = foldline.command("batch", "run") if number % 2 else None
            # An import without a platform opens the data itself: the kill comes once this one has begun.
            while foldline.log_bytes() < size + 100_000 and import_.poll() is None:
                time.sleep(0.002)
            wait = chance.uniform(0, rows / rate)
            time.sleep(wait)
            foldline.kill()
            _, complaint = import_.communicate(timeout=300)
            code = import_.returncode
            findings.check(code in (0, 3), f"an import whose platform was killed ended with {code}: {complaint}")
            if batch:
                _, complaint = batch.communicate(timeout=300)
                findings.check(batch.returncode in (0, 3), f"batch run when killed: {batch.returncode} {complaint}")
            ready = foldline.start()
            _, behind = foldline.caught_up()
            print(f"  killed after {wait:.2f} s of {stream.name} ({rows} rows), import ended with {code}; "
                  f"ready after {ready:.1f} s, {behind} records behind then", flush=True)
        reports = foldline.json(*words, "--wait")
        appended = sum(report["appended"] for report in reports)
        before = sum(report["in_before"] for report in reports)
        print(f"  {stream.name}: {appended} rows appended, {before} were in", flush=True)
        if number % 3 == 2:
            foldline.run("batch", "run")
    compare(duck, foldline, findings, "after kills")
    audit(foldline, findings, "after kills", everything, total)
    time.sleep(1.5)
    foldline.run("batch", "run")
    foldline.run("batch", "run", "--full")
    compare(duck, foldline, findings, "after kills, --full")
    foldline.stop()


def part_rubbish(options, everything, duck, folder, findings):
    foldline = Foldline(options, folder)
    foldline.start()
    good = '{"review_id":"%s","product_id":"P","star_rating":5,"helpful_votes":1,"review_date":"2026-03-01"}'
    names = iter(f"G{n}" for n in range(1000))
    expected, letters = 0, 0

    def http(what, body, codes, more_good=0, more_letters=0, stream="reviews", **headers):
        nonlocal expected, letters
        status, kind, answer = foldline.put(stream, body, **headers)
        text = answer[:300].decode(errors="replace").replace("\n", " ")
        print(f"  HTTP {what}: {status} {text}", flush=True)
        findings.check(foldline.alive(), f"HTTP {what}: the process is gone")
        findings.check(status in codes, f"HTTP {what}: {status} {text}")
        if status >= 400:
            findings.check("problem+json" in kind.get("content-type", ""), f"HTTP {what}: no problem document: {text}")
        expected, letters = expected + more_good, letters + more_letters

    def file(what, name, content, codes, more_good=0, more_letters=0, flags=(), stream="reviews"):
        nonlocal expected, letters
        path = folder / name
        path.write_bytes(content)
        code, out, err = foldline.run("import", path, "--stream", stream, "--wait", "--format", "json", *flags, expect=None)
        said = re.sub(r"\s+", " ", (err if code else out))[:300]
        print(f"  import {what}: {code} {said}", flush=True)
        findings.check(foldline.alive(), f"import {what}: the process is gone")
        findings.check(code in codes, f"import {what}: {code} {said}")
        findings.check("panicked" not in err, f"import {what}: {said}")
        expected, letters = expected + more_good, letters + more_letters

    def line(**changes):
        return (json.dumps(json.loads(good % next(names)) | changes) + "\n").encode()

    long_ago = '{"review_id":"%s","product_id":"P","review_date":"%s"}\n'
    deep = b"[" * 10_000 + b"]" * 10_000
    http("nothing", b"", (200, 202, 400))
    http("a good line", line(), (202,), 1)
    http("no JSON, a good line", b"rubbish\n" + line(), (202,), 1)
    http("a line of 20 MB", line(review_body="x" * 20_000_000), (202,))
    http("a line of 20 MB, a good line", line(review_body="x" * 20_000_000) + line(), (202,), 1)
    http("NUL bytes", b"\0" * 100 + b"\n" + line(), (202,), 1)
    http("a NUL in a text", line(review_body="a\0b"), (202,), 1)
    http("invalid UTF-8", b'{"review_id":"\xff\xfe","product_id":"P","review_date":"2026-03-01"}\n' + line(), (202,), 1)
    http("JSON 10,000 deep", deep + b"\n", (202,), 0, 1)
    http("a field 10,000 deep", b'{"review_id":"D","product_id":"P","review_date":"2026-03-01","x":' + deep + b"}\n", (202,), 1)
    http("a number beyond INT", line(star_rating=99999999999), (202,), 1)
    http("a number beyond all", (good % next(names)).replace(":5,", ":1e999999,").encode(), (202,), 1)
    http("1970", (long_ago % ("OLD", "1970-01-01")).encode(), (202,), 0, 1)
    http("9999", (long_ago % ("NEW", "9999-12-31")).encode(), (202,), 0, 1)
    http("no such date", (long_ago % ("NO", "2026-02-30")).encode(), (202,), 0, 1)
    http("an unknown stream", line(), (404,), stream="nothing")
    http("a stream with a strange name", line(), (404, 400), stream="..%2F..%2Fetc")
    http("another content type", line(), (202, 415), 1, content_type="application/xml")
    http("a good line at the end", line(), (202,), 1)
    for path, body in [("/v1/query", b"{"), ("/v1/query", b'{"sql":"SELEC"}'), ("/v1/query", b'{"sql":"DROP VIEW products"}'),
                       ("/v1/query", b'{"sql":"SELECT * FROM nothing"}'), ("/v1/query", json.dumps(
                           {"sql": "SELECT " + "(" * 5000 + "1" + ")" * 5000}).encode())]:
        status, kind, answer = foldline.ask("POST", path, body, {"content-type": "application/json"})
        print(f"  {path} {body[:60]!r}: {status} {answer[:200]!r}", flush=True)
        findings.check(foldline.alive(), f"query {body[:60]!r}: the process is gone")
        findings.check(400 <= status < 500 and "problem+json" in kind.get("content-type", ""), f"{body[:60]!r}: {status} {answer[:200]!r}")

    header = b"review_id\tproduct_id\tstar_rating\treview_date\n"
    file("an empty file", "empty.tsv", b"", (0, 2))
    file("an empty .gz", "empty.tsv.gz", b"", (0, 1, 2))
    file("a header alone", "header.tsv", header, (0,))
    file("no gzip", "no.tsv.gz", header + b"X\tP\t1\t2026-03-01\n", (0,), 1)
    # None of its names is declared, so it counts as a row; so do lines that cannot be cut: dead letters.
    file("a wrong header", "wrong.tsv", b"a\tb\tc\n1\t2\t3\n", (0,), 0, 2)
    file("a wrong header that is said to be one", "said.tsv", b"a\tb\tc\n1\t2\t3\n", (1, 2), flags=["--header"])
    file("a line of 20 MB", "long.tsv", header + b"L\tP\t5\t2026-03-01" + b"x" * 20_000_000 + b"\nL2\tP\t5\t2026-03-01\n", (0, 1), 1)
    file("NUL bytes", "nul.tsv", header + b"\0\0\0\nN2\tP\t5\t2026-03-01\n", (0,), 1, 1)
    file("invalid UTF-8", "utf8.tsv", header + b"\xff\xfe\tP\t5\t2026-03-01\nU2\tP\t5\t2026-03-01\n", (0,), 1, 1)
    file("too few, too many fields", "fields.tsv", header + b"F1\tP\nF2\tP\t5\t2026-03-01\tx\ty\nF3\tP\t5\t2026-03-01\n", (0,), 1, 2)
    file("numbers and dates beyond their types", "beyond.tsv", header + b"B1\tP\t99999999999\t2026-03-01\nB2\tP\t5\t1970-01-01\n"
         b"B3\tP\t5\t9999-12-31\nB4\tP\t5\t2026-03-01\n", (0,), 2, 2)
    file("JSON 10,000 deep", "deep.ndjson", b'{"x":' + deep + b"}\n" + line(), (0,), 1, 1)
    file("a JSON array as NDJSON", "array.ndjson", deep + b"\n" + line(), (2,))
    file("a header without a NOT NULL column", "lacks.tsv", b"review_idd\tproduct_id\tstar_rating\treview_date\nX9\tP\t5\t2026-03-01\n", (1, 2))
    file("an unknown stream", "good.tsv", header + b"Z\tP\t5\t2026-03-01\n", (2,), stream="nothing")
    code, _, err = foldline.run("import", folder / "not-there.tsv", "--stream", "reviews", expect=None)
    findings.check(code in (1, 2, 3) and "not-there" in err, f"a file that is not there: {code} {err}")

    # The archive holds dead letters, and a batch run waits for it.
    time.sleep(1.5)
    foldline.run("batch", "run")
    (counted,) = json.loads(foldline.query("SELECT sum(reviews) AS n FROM products", "application/json"))["data"]
    dead = foldline.json("archive", "dead-letters", "--stream", "reviews", "--limit", "1000")
    print(f"  {counted['n']} good rows, {len(dead)} dead letters")
    for letter in dead:
        print(f"    {json.dumps(letter)[:220]}")
    for view in foldline.json("verify", "--all", expect=(0, 1)):
        findings.check(view["equal"], f"rubbish: verify says {view}")
    code, out, err = foldline.run("archive", "audit", expect=(0, 1))
    findings.check(code == 0, f"rubbish: archive audit says {out}{err}")
    findings.check(counted["n"] == expected, f"rubbish: {counted['n']} good rows are there, not {expected}")
    findings.check(len(dead) == letters, f"rubbish: {len(dead)} dead letters are there, not {letters}")
    foldline.kill()
    foldline.start()
    foldline.caught_up()
    (again,) = json.loads(foldline.query("SELECT sum(reviews) AS n FROM products", "application/json"))["data"]
    findings.check(again == counted, f"rubbish: {counted} before, {again} after kill -9")
    foldline.stop()


PARTS = {"compare": part_compare, "kills": part_kills, "rubbish": part_rubbish}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="compare, kills, rubbish [default: all]")
    parser.add_argument("--data", type=Path, required=True, help="folder with reviews/ and clickstream/")
    parser.add_argument("--foldline", type=Path, default=REPOSITORY / "target/release/foldline")
    parser.add_argument("--rounds", type=int, default=10, help="imports that are killed [10]")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the moments of kills")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting")
    parser.add_argument("--answers", type=Path, help="folder for the answers of compare, as CSV")
    parser.add_argument("--globo-files", type=int, help="only so many files of globo")
    options = parser.parse_args()
    options.foldline = options.foldline.resolve()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    everything = streams(options.data.resolve())
    everything[-1].files = everything[-1].files[: options.globo_files]
    print(f"seed {options.seed}")
    duck = load(everything)
    work, findings = Path(tempfile.mkdtemp(prefix="foldline-real-data-")), Findings()
    for part in options.parts or PARTS:
        print(f"{part}:", flush=True)
        try:
            PARTS[part](options, everything, duck, work / part, findings)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            findings.check(False, f"{part} broke off: {error}")
        finally:
            for foldline in Foldline.started:
                foldline.end()
    print(f"\n{'when':22} {'what':20} {'keys':>8}  result")
    for when, what, keys, result in findings.table:
        print(f"{when:22} {what:20} {keys:8}  {result}")
    print("\n" + "\n".join(findings.figures))
    if findings.wrong:
        print(f"\n{len(findings.wrong)} wrong; the data are in {work}:")
        print("\n".join(f"  {what}" for what in findings.wrong))
        return 1
    shutil.rmtree(work)
    print("\nnothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
