//! Files of the corpus, mutated: whatever they have become, they compile or are refused. No panic, no exhausted stack, no
//! compilation without end.
//!
//! | setting | does |
//! | --- | --- |
//! | `FOLDLINE_FUZZ_SECONDS=n` | how long; `make fuzz` takes ten minutes |
//! | `FOLDLINE_FUZZ_SEED=n` | other mutations; what was mutated last stands in a file, in case that the stack ends |
//! | `FOLDLINE_FUZZ_NUMBER=n` | only that one of the seed, which is printed |

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldline_sql::{Catalog, SourceFile};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// As much as a thread of the platform has.
const STACK_BYTES: usize = 2 << 20;
/// Of an unoptimised build on a busy machine; as a rule it takes milliseconds.
const COMPILES_WITHIN: Duration = Duration::from_secs(60);

/// What begins and ends again.
const NESTED: &[(&str, &str)] = &[
    ("(", ")"),
    ("(SELECT n FROM (", "))"),
    ("NOT ", ""),
    ("- ", ""),
    ("CASE WHEN true THEN ", " END"),
    ("coalesce(", ", 1)"),
    ("CAST(", " AS TEXT)"),
    ("[", "]"),
    ("ARRAY[", "]"),
    ("x IN (", ")"),
    ("WITH c AS (", ") SELECT n FROM c"),
    ("STRUCT<a ", ">"),
];

/// What goes on and on.
const CHAINED: &[&str] = &[
    " + 1",
    " || 'a'",
    " AND amount > 1",
    " OR amount > 1",
    "::BIGINT::TEXT",
    "[1]",
    ".a",
    ", amount",
    " UNION ALL SELECT user_id FROM events",
    " CROSS JOIN events",
    " IS NOT NULL",
    " WHEN amount > 1 THEN 2",
    " AT TIME ZONE 'UTC'",
    " COLLATE \"C\"",
];

/// Tokens that mean much.
const WORDS: &[&str] = &[
    "NULL",
    "''",
    "0",
    "-1",
    "9223372036854775808",
    "1e400",
    "INTERVAL '0 seconds'",
    "INTERVAL '999999999999 years'",
    "INTERVAL '-1 month'",
    "DISTINCT",
    "FILTER (WHERE false)",
    "OVER ()",
    "*",
    "CURRENT_DATE",
    "$1",
    "_offset",
    "tumble(at, INTERVAL '1 day')",
    "hop(at, INTERVAL '1 second', INTERVAL '1 day')",
    "session(at, INTERVAL '1 day')",
    "window_end(at)",
    "LIMIT",
    "QUALIFY",
    "GROUPING SETS (())",
    "ROLLUP",
    "LATERAL",
    "UNNEST([1])",
    "EXCEPT",
    "DECIMAL(38, 38)",
    "\u{0}",
    "日",
    "'",
    "\"",
    "/*",
    "--",
    ";",
];

fn texts() -> Vec<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        "../tests/agreement",
        "../tests/agreement/refused",
        "pipelines/shop",
        "tests/it",
    ];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(here.join(folder)).unwrap());
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "sql" || extension == "txt")
    });
    files.sort();
    let mut texts: Vec<String> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        // Refusals are told by empty lines; a file of the corpus stays whole without what is said in its comments.
        let sql = |text: &str| {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with("--") && !line.starts_with("-> "));
            lines.collect::<Vec<_>>().join("\n")
        };
        match text.contains("\n-> ") {
            true => texts.extend(
                text.split("\n\n")
                    .map(|case| format!("{}{}", crate::rows::STREAM, sql(case))),
            ),
            false => texts.push(sql(&text)),
        }
    }
    texts
}

/// Words, numbers, quoted texts, spaces and single characters.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let kind = |character: char| match character {
        character if character.is_alphanumeric() || character == '_' => 1,
        character if character.is_whitespace() => 2,
        _ => 0,
    };
    for character in text.chars() {
        let same = tokens.last().and_then(|token| token.chars().last()).map(kind) == Some(kind(character));
        match tokens.last_mut() {
            Some(token) if same && kind(character) > 0 => token.push(character),
            _ => tokens.push(character.to_string()),
        }
    }
    tokens
}

fn mutated(texts: &[String], random: &mut StdRng) -> String {
    let mut pick = |below: usize| random.random_range(0..below.max(1));
    let mut tokens = self::tokens(&texts[pick(texts.len())]);
    for _ in 0..=pick(6) {
        let at = pick(tokens.len());
        let length = (1 + pick(12)).min(tokens.len() - at.min(tokens.len()));
        match pick(11) {
            0 => drop(tokens.drain(at..at + length)),
            1 => {
                let copied = tokens[at..at + length].to_vec();
                let to = pick(tokens.len());
                tokens.splice(to..to, copied);
            }
            2 | 3 if !tokens.is_empty() => {
                let other = pick(tokens.len());
                tokens.swap(at, other);
            }
            4 | 5 => {
                let other = self::tokens(&texts[pick(texts.len())]);
                let from = pick(other.len());
                let piece = &other[from..(from + 1 + pick(30)).min(other.len())];
                tokens.splice(at..at + length.min(pick(2)), piece.iter().cloned());
            }
            6 | 7 => drop(tokens.splice(
                at..at + length.min(pick(3)),
                [format!(" {} ", WORDS[pick(WORDS.len())])],
            )),
            8 => {
                let (open, close) = NESTED[pick(NESTED.len())];
                let deep = if pick(3) == 0 { pick(3000) } else { pick(40) };
                tokens.insert(at + length, close.repeat(deep));
                tokens.insert(at, open.repeat(deep));
            }
            9 => {
                let long = if pick(3) == 0 { pick(3000) } else { pick(40) };
                tokens.insert(at, CHAINED[pick(CHAINED.len())].repeat(long));
            }
            _ => {
                let mut bytes = tokens.concat().into_bytes();
                let at = pick(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << pick(8);
                }
                tokens = self::tokens(&String::from_utf8_lossy(&bytes));
            }
        }
        if tokens.is_empty() {
            break;
        }
    }
    tokens.concat()
}

/// Why `text` neither compiles nor is refused.
fn failure(text: &str) -> Option<String> {
    let file = SourceFile {
        name: "a.sql".into(),
        text: text.to_owned(),
    };
    let started = Instant::now();
    let compiled = catch_unwind(AssertUnwindSafe(|| {
        futures::executor::block_on(Catalog::compile(&[file]))
    }));
    let said = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("a panic", |text| text).to_string(),
    };
    match compiled {
        Err(panic) => Some(said(panic)),
        Ok(Err(refusals)) if refusals.is_empty() => Some("refused without a reason".to_owned()),
        Ok(_) if started.elapsed() > COMPILES_WITHIN => Some(format!("took {:?}", started.elapsed())),
        Ok(_) => None,
    }
}

/// The shortest text found by leaving out tokens that still panics.
fn shrunken(text: &str) -> String {
    let mut tokens = tokens(text);
    let until = Instant::now() + Duration::from_secs(60);
    let mut length = tokens.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at + length <= tokens.len() && Instant::now() < until {
            let mut fewer = tokens.clone();
            fewer.drain(at..at + length);
            match failure(&fewer.concat()) {
                Some(_) => tokens = fewer,
                None => at += length,
            }
        }
        length /= 2;
    }
    tokens.concat()
}

/// What the parser tries to read in several ways when it is wrong inside.
const RETRIED: [&str; 9] = [
    "CAST(",
    "NOT (",
    "POSITION(",
    "SUBSTRING(",
    "CEIL(",
    "TRIM(",
    "OVERLAY(",
    "INTERVAL (",
    "EXTRACT(",
];

#[test]
fn what_is_wrong_deep_inside_is_refused_soon() {
    for open in RETRIED {
        for (deep, nests) in [(7, false), (9, true)] {
            let wrong = format!("{} GROUP BY 1; {}", open.repeat(deep), ")".repeat(deep));
            for query in [format!("{wrong} AS n FROM events"), format!("1 AS n FROM f({wrong})")] {
                let file = SourceFile {
                    name: "a.sql".into(),
                    text: format!("{} CREATE VIEW v AS SELECT {query};", crate::rows::STREAM),
                };
                let started = Instant::now();
                let refusals = futures::executor::block_on(Catalog::compile(&[file])).unwrap_err();
                assert!(started.elapsed() < COMPILES_WITHIN, "{query}: {:?}", started.elapsed());
                assert_eq!(
                    refusals[0].reason.contains("nests deeper"),
                    nests,
                    "{query}: {}",
                    refusals[0]
                );
            }
        }
    }
}

/// Statements that are long or deep in one way: as long as `count` says, and what `check` says of them (a part of the
/// refusal; nothing where they compile).
fn long(count: usize) -> Vec<(String, &'static str)> {
    let numbered = |item: &dyn Fn(usize) -> String, between: &str| {
        let items: Vec<String> = (0..count).map(item).collect();
        items.join(between)
    };
    let view = |query: String| format!("{} CREATE VIEW v AS {query};", crate::rows::STREAM);
    let of = |value: String| view(format!("SELECT kind, max({value}) AS m FROM events GROUP BY kind"));
    let filtered = |filter: String| {
        view(format!(
            "SELECT kind, count(*) AS n FROM events WHERE {filter} GROUP BY kind"
        ))
    };
    let chain = |first: &str, link: &str| format!("{first}{}", link.repeat(count));
    let nest = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(count), close.repeat(count));
    let group = "SELECT kind, count(*) AS n FROM events GROUP BY kind";
    let operators = "operators and brackets";
    let nests = "nests deeper";
    vec![
        (of(chain("amount", " + amount")), operators),
        (of(chain("kind", " || kind")), operators),
        (of(chain("amount", "::BIGINT")), operators),
        (of(chain("amount", " + -1")), operators),
        (of(chain("kind", " COLLATE \"C\"")), operators),
        (of(chain("at", " AT TIME ZONE 'UTC'")), operators),
        (of(chain("kind", ".a")), operators),
        (of(chain("[1]", "[1]")), nests),
        (of(nest("- ", "1", "")), operators),
        (of(nest("(", "1", ")")), nests),
        (of(nest("coalesce(", "amount", ", 1)")), nests),
        (of(nest("CASE WHEN amount > 1 THEN ", "1", " END")), nests),
        (of(nest("[", "1", "]")), nests),
        (of(format!("CAST(kind AS {})", nest("STRUCT<a ", "INT", ">"))), nests),
        (of(format!("CAST(kind AS INT{})", "[]".repeat(count))), nests),
        (filtered(chain("amount = 1", " OR amount = 1")), operators),
        (filtered(chain("amount = 1", " AND amount = 1")), operators),
        (filtered(chain("amount", " IS NULL")), operators),
        (filtered(chain("amount", " NOTNULL")), operators),
        (filtered(chain("amount", " IS DISTINCT FROM amount")), operators),
        (of(chain("events.limit", " + events.limit")), operators),
        (
            view(
                chain(
                    "SELECT median(amount)",
                    " + percentile_cont(0.5) WITHIN GROUP (ORDER BY amount)",
                ) + " AS m FROM events",
            ),
            operators,
        ),
        (filtered(chain("amount", " BETWEEN 1 AND 2")), operators),
        (filtered(nest("NOT ", "amount > 1", "")), operators),
        (filtered(nest("amount IN (", "1", ")")), nests),
        (
            filtered(nest("EXISTS (SELECT 1 FROM events WHERE ", "true", ")")),
            nests,
        ),
        (view(nest("SELECT n FROM (", group, ") AS x")), nests),
        (view(nest("WITH c AS (", group, ") SELECT kind, n FROM c")), nests),
        (view(chain(group, &format!(" UNION ALL {group}"))), "set operations"),
        (view(chain(group, &format!(" EXCEPT {group}"))), "set operations"),
        (
            view(format!(
                "WITH c AS ({group}) SELECT c.n{} ",
                chain(" FROM c", " CROSS JOIN c")
            )),
            "joins",
        ),
        (
            view(format!("WITH c AS ({group}) SELECT c.n{} ", chain(" FROM c", ", c"))),
            "beside each other",
        ),
        (
            view(format!(
                "WITH c0 AS ({group}), {} SELECT kind, n FROM c1",
                numbered(&|n| format!("c{} AS (SELECT kind, n FROM c{n})", n + 1), ", ")
            )),
            "beside each other",
        ),
        (
            view(format!(
                "WITH c0 AS ({group}), {} SELECT kind, n FROM c{count}",
                numbered(&|n| format!("c{} AS (SELECT kind, n FROM c{n})", n + 1), ", ")
            )),
            "beside each other",
        ),
        (
            view(format!(
                "WITH c0 AS ({group}), {} SELECT kind, n FROM c{}",
                (0..count.min(30))
                    .map(|n| format!(
                        "c{} AS (SELECT a.kind, a.n FROM c{n} AS a JOIN c{n} AS b USING (kind))",
                        n + 1
                    ))
                    .collect::<Vec<_>>()
                    .join(", "),
                count.min(30)
            )),
            "written out",
        ),
        (
            format!(
                "{} CREATE VIEW v0 AS {group}; {}",
                crate::rows::STREAM,
                (0..count.min(30))
                    .map(|n| format!(
                        "CREATE VIEW v{} AS SELECT a.kind, a.n FROM v{n} AS a JOIN v{n} AS b USING (kind);",
                        n + 1
                    ))
                    .collect::<Vec<_>>()
                    .join("\n")
            ),
            "written out",
        ),
        (
            view(format!(
                "WITH c0 AS ({group}), {} SELECT kind, n FROM c30 WHERE n > 1",
                (0..30)
                    .map(|n| format!("c{} AS (SELECT kind, n + n AS n FROM c{n})", n + 1))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            "those of the queries below it are written out",
        ),
        (
            filtered(format!("amount IN ({})", numbered(&|n| n.to_string(), ", "))),
            "",
        ),
        (
            filtered(format!("kind NOT IN ({})", numbered(&|n| format!("'k{n}'"), ", "))),
            "",
        ),
        (
            of(format!("coalesce({})", numbered(&|_| "amount".to_owned(), ", "))),
            "beside each other",
        ),
        (
            of(format!("CASE {} ELSE 0 END", "WHEN amount > 1 THEN 2 ".repeat(count))),
            "beside each other",
        ),
        (
            format!("CREATE STREAM s ({})", numbered(&|n| format!("a{n} INT"), ", ")),
            "beside each other",
        ),
        (format!("CREATE STREAM s (a {})", nest("STRUCT<a ", "INT", ">")), nests),
        (format!("CREATE STREAM s (a INT{})", "[]".repeat(count)), nests),
        (
            format!(
                "CREATE STREAM s (a STRUCT<{}>)",
                numbered(&|n| format!("a{n} INT"), ", ")
            ),
            "beside each other",
        ),
        (
            view(format!(
                "SELECT {} FROM events",
                numbered(&|n| format!("amount AS a{n}"), ", ")
            )),
            "beside each other",
        ),
        (
            view(format!(
                "SELECT kind, {} FROM events GROUP BY kind",
                numbered(&|n| format!("max(amount + {n}) AS a{n}"), ", ")
            )),
            "beside each other",
        ),
        (
            view(format!(
                "SELECT kind, {} FROM ({group})",
                numbered(&|n| format!("rank() OVER (ORDER BY n + {n}) AS a{n}"), ", ")
            )),
            "window functions",
        ),
        (numbered(&|_| "CREATE".to_owned(), " "), "expected"),
        (numbered(&|_| ";".to_owned(), ""), ""),
    ]
}

/// Whatever is long is bounded; and what is as long as the bounds let it be is planned.
#[test]
fn long_statements_compile_or_are_refused_soon() {
    for count in [45, 110, 10_000] {
        for (text, says) in long(count) {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let file = SourceFile {
                name: "a.sql".into(),
                text: text.clone(),
            };
            let compiled = move || futures::executor::block_on(Catalog::compile(&[file])).err();
            let started = Instant::now();
            let refused = thread.spawn(compiled).unwrap().join().unwrap().unwrap_or_default();
            let took = started.elapsed();
            let said = refused.first().map(|refusal| refusal.to_string()).unwrap_or_default();
            let shown: String = text.chars().skip(190).take(120).collect();
            if std::env::var_os("SHOW").is_some() {
                println!(
                    "{count} {took:?} {shown:?}: {}",
                    said.chars().take(200).collect::<String>()
                );
            }
            assert!(took < COMPILES_WITHIN, "{count}, {took:?}: {shown}");
            assert!(count < 10_000 || said.contains(says), "{shown}: {said}");
        }
    }
}

#[test]
#[ignore = "make fuzz"]
fn mutated_files_compile_or_are_refused() {
    let setting = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |value| value.parse().unwrap());
    let seed = setting("FOLDLINE_FUZZ_SEED", 1);
    let until = Instant::now() + Duration::from_secs(setting("FOLDLINE_FUZZ_SECONDS", 8));
    let texts = texts();
    assert!(texts.len() > 300, "{} texts", texts.len());
    let made = |number: u64| {
        mutated(
            &texts,
            &mut StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) + number),
        )
    };
    if let Ok(number) = std::env::var("FOLDLINE_FUZZ_NUMBER") {
        let text = made(number.parse().unwrap());
        println!("{text}");
        let started = Instant::now();
        println!("{:?} in {:?}", failure(&text), started.elapsed());
        return;
    }
    let (next, failures) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let work = &|worker: usize| {
        let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutated-{seed}-{worker}.sql"));
        while Instant::now() < until {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let text = made(number);
            std::fs::write(&last, &text).unwrap();
            let Some(reason) = failure(&text) else { continue };
            let known = failures.lock().unwrap().contains_key(&reason);
            if !known {
                let text = format!("number {number}: {reason}\n{}", shrunken(&text));
                failures.lock().unwrap().insert(reason, text);
            }
        }
        std::fs::remove_file(last).unwrap();
    };
    std::thread::scope(|scope| {
        for worker in 0..std::thread::available_parallelism().unwrap().get() {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, move || work(worker)).unwrap();
        }
    });
    let mutated = next.into_inner();
    println!("{mutated} mutated files, seed {seed}");
    let failures: Vec<String> = failures.into_inner().unwrap().into_values().collect();
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n\n"));
    assert!(mutated > 20, "{mutated} mutated files are too few");
}
