//! What decodes to what, and which records are malformed, why, and regardless of their neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Decimal128Type, Field, Fields, Float64Type, Int32Type, Int64Type, TimeUnit};
use arrow::util::display::array_value_to_string;
use foldline_event_log::decode::{DecodeError, Decoded, Decoder};
use foldline_sql::{EventTimeFormat, Stream, UniqueKey};
use proptest::prelude::*;
use proptest::sample::select;

use crate::scripted::{column, stream, timestamptz};

fn reviews() -> Stream {
    Stream {
        event_time: Some("at".to_owned()),
        unique: Some(UniqueKey {
            columns: vec!["review_id".to_owned()],
            within_ms: 1000,
        }),
        ..stream(vec![
            column("review_id", DataType::Utf8, true),
            column("product_id", DataType::Utf8, false),
            column("star_rating", DataType::Int32, true),
            column("at", timestamptz(), true),
            column("votes", DataType::Int64, false),
        ])
    }
}

fn decode(stream: &Stream, columns: &[&str], records: &[&[u8]]) -> Decoded {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut decoder = Decoder::new(stream, &columns).unwrap();
    decoder.decode(&BinaryArray::from_iter_values(records)).unwrap()
}

/// Why `record` is malformed.
fn reason(stream: &Stream, record: &[u8]) -> String {
    let good = br#"{"review_id":"r","product_id":"p","star_rating":1,"at":"2024-01-01","votes":1}"#;
    let decoded = decode(stream, &[], &[good, record, good]);
    assert_eq!(decoded.good, [0, 2], "the neighbours are good");
    let [(1, reason)] = &decoded.malformed[..] else {
        panic!("{:?} is good", String::from_utf8_lossy(record));
    };
    reason.clone()
}

#[test]
fn golden_reasons() {
    let judged = |record: &str| reason(&reviews(), record.as_bytes());
    for (record, expected) in [
        (
            r#"{"product_id":"p","at":"2024-01-01","votes":1}"#,
            r#"column "review_id" is missing or null"#,
        ),
        (
            r#"{"review_id":null,"product_id":"p","at":"2024-01-01","votes":1}"#,
            r#"column "review_id" is missing or null"#,
        ),
        (
            r#"{"review_id":{},"product_id":"p","at":"2024-01-01","votes":1}"#,
            r#"column "review_id": {} is not TEXT"#,
        ),
        (
            r#"{"review_id":"r","at":"2024-01-01","votes":1}"#,
            r#"column "product_id" is missing or null"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"2024-01-01","votes":"x"}"#,
            r#"column "votes": "x" is not BIGINT"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"2024-01-01","votes":5.7}"#,
            r#"column "votes": 5.7 is not BIGINT"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","votes":1}"#,
            r#"column "at" is missing or null"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"soon","votes":1}"#,
            r#"column "at": "soon" is not TIMESTAMPTZ"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":1511658000,"votes":1}"#,
            r#"column "at": 1511658000 is not TIMESTAMPTZ"#,
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"1970-01-01T00:00:15Z","votes":1}"#,
            "event time 1970-01-01T00:00:15Z lies before 1971",
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"1970-12-31T23:59:59.999999Z","votes":1}"#,
            "event time 1970-12-31T23:59:59.999999Z lies before 1971",
        ),
        (
            r#"{"review_id":"r","product_id":"p","at":"2200-01-01T00:00:00Z","votes":1}"#,
            "event time 2200-01-01T00:00:00Z does not lie before 2200",
        ),
        (
            r"[1]",
            "not one JSON object: invalid type: sequence, expected one JSON object at line 1 column 0",
        ),
        ("", "not one JSON object: EOF while parsing a value at line 1 column 0"),
        (
            r#"{"review_id":"r""#,
            "not one JSON object: EOF while parsing an object at line 1 column 16",
        ),
    ] {
        assert_eq!(judged(record), expected, "{record}");
    }
    for at in ["1971-01-01T00:00:00Z", "2199-12-31T23:59:59.999999Z"] {
        let record = format!(r#"{{"review_id":"r","product_id":"p","at":"{at}","votes":1}}"#);
        assert_eq!(decode(&reviews(), &[], &[record.as_bytes()]).good, [0], "{at}");
    }
}

#[test]
fn a_reason_shows_the_beginning_of_a_long_value() {
    let votes = format!("\"{}\"", "é".repeat(100));
    let record = format!(r#"{{"review_id":"r","product_id":"p","at":"2024-01-01","votes":{votes}}}"#);
    let reason = reason(&reviews(), record.as_bytes());
    assert_eq!(
        reason,
        format!("column \"votes\": \"{}... is not BIGINT", "é".repeat(39))
    );
}

#[test]
fn the_first_declared_column_gives_the_reason() {
    // Every judging column is wrong, and the unasked one stands first in the record.
    let record = br#"{"votes":"x","at":"1970-01-01","product_id":null,"review_id":[]}"#;
    assert_eq!(reason(&reviews(), record), r#"column "review_id": [] is not TEXT"#);
}

#[test]
fn a_tombstone_is_malformed() {
    let mut decoder = Decoder::new(&reviews(), &[]).unwrap();
    let decoded = decoder.decode(&BinaryArray::from_iter([None::<&[u8]>])).unwrap();
    assert_eq!(
        decoded.malformed,
        [(0, "the record has no value (a tombstone)".to_owned())]
    );
    assert_eq!(decoded.rows.num_rows(), 0);
}

#[test]
fn records_never_flow_into_each_other() {
    let plain = stream(vec![column("a", DataType::Int32, true)]);
    for (records, good) in [
        (&[r#"{"a":1"#, r#"}{"a":2}"#][..], &[][..]),
        (&[r#"{"a":1}{"a":2}"#, r#"{"a":3}"#], &[1]),
        (&[r#"{"a":1} {"a":2}"#], &[]),
        (&["", r#"{"a":3}"#], &[1]),
        (&["  ", r#"{"a":3}"#], &[1]),
        (&[r#"{"a":"x"#, r#"y"}"#, r#"{"a":3}"#], &[2]),
        (&[r#"{"a":1"#, r#"2}"#, r#"{"a":3}"#], &[2]),
        (&[" \r\n\t{\"a\":1}\r\n ", r#"{"a":3}"#], &[0, 1]),
    ] {
        let bytes: Vec<&[u8]> = records.iter().map(|record| record.as_bytes()).collect();
        let decoded = decode(&plain, &["a"], &bytes);
        assert_eq!(decoded.good, good, "{records:?}");
        assert_eq!(decoded.malformed.len() + good.len(), records.len());
        assert_eq!(decoded.rows.num_rows(), good.len());
    }
}

#[test]
fn what_is_not_one_json_object_is_malformed_whatever_is_asked_for() {
    let plain = stream(vec![
        column("a", DataType::Int32, true),
        column("b", DataType::Utf8, true),
    ]);
    let bad: [&[u8]; 20] = [
        b"null",
        b"1",
        b"\"a\"",
        b"[]",
        b"{",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{,\"a\":1}",
        b"{\"a\":1 \"b\":2}",
        b"{\"b\":01}",
        b"{\"b\":1-2}",
        b"{\"b\":NaN}",
        b"{\"b\":\"\x01\"}",
        b"{\"b\":\"\xff\"}",
        b"{\"b\":\"\xc3\"}",
        b"{\"b\":\"\\x\"}",
        b"\xef\xbb\xbf{\"a\":1}",
        b"{\"a\":1}\0",
        b"{'a':1}",
    ];
    for record in bad {
        for columns in [&[][..], &["a"], &["b"], &["a", "b"]] {
            let decoded = decode(&plain, columns, &[record]);
            assert_eq!(decoded.malformed.len(), 1, "{:?}", String::from_utf8_lossy(record));
        }
    }
}

#[test]
fn nesting_may_be_deep() {
    let plain = stream(vec![
        column("a", DataType::Int32, true),
        column("b", DataType::Utf8, true),
    ]);
    for (open, close) in [("[", "]"), (r#"{"a":"#, "1}")] {
        let (open, close) = (open.repeat(100_000), close.replace('1', "").repeat(100_000));
        let inner = if open.starts_with('{') { "1" } else { "" };
        let deep = format!(r#"{{"b":{open}{inner}{close},"a":7}}"#);
        let decoded = decode(&plain, &["a", "b"], &[deep.as_bytes()]);
        assert_eq!(decoded.good, [0]);
        assert_eq!(decoded.rows["a"].as_primitive::<Int32Type>().value(0), 7);
        assert!(decoded.rows["b"].is_null(0), "an array or object is no TEXT");
        assert_eq!(decoded.nulled, [("b".to_owned(), vec![0])]);
        let open_only = format!(r#"{{"c":{open}"#);
        assert_eq!(decode(&plain, &[], &[open_only.as_bytes()]).good, [0_usize; 0]);
    }
}

#[test]
fn a_record_of_20_mb_decodes() {
    let plain = stream(vec![column("b", DataType::Utf8, true)]);
    let text = "x\u{1F600}".repeat(4_000_000);
    let record = format!(r#"{{"b":"{text}"}}"#);
    assert!(record.len() >= 20_000_000);
    let decoded = decode(&plain, &["b"], &[record.as_bytes()]);
    assert_eq!(decoded.rows["b"].as_string::<i32>().value(0), text);
}

#[test]
fn of_a_field_that_is_there_twice_the_last_one_counts() {
    let plain = stream(vec![column("a", DataType::Int32, true)]);
    let decoded = decode(
        &plain,
        &["a"],
        &[br#"{"a":1,"a":2}"#, br#"{"a":1,"a":null}"#, br#"{"a":"x","a":3}"#],
    );
    let values: Vec<Option<i32>> = decoded.rows["a"].as_primitive::<Int32Type>().iter().collect();
    assert_eq!(values, [Some(2), None, Some(3)]);
    assert_eq!(decoded.nulled, []);
}

#[test]
fn field_order_and_escapes_in_names_do_not_matter() {
    let plain = stream(vec![
        column("a", DataType::Int32, true),
        column("b", DataType::Int32, true),
    ]);
    let records: [&[u8]; 5] = [
        br#"{"a":1,"b":2}"#,
        br#"{"b":2,"a":1}"#,
        br#"{"c":9,"a":1,"d":[{"a":8}],"b":2}"#,
        br#"{"\u0061":1,"\u0062":2}"#,
        br#"{"A":9,"a":1,"b":2,"":9}"#,
    ];
    let decoded = decode(&plain, &["a", "b"], &records);
    assert_eq!(decoded.rows["a"].as_primitive::<Int32Type>().values(), &[1; 5]);
    assert_eq!(decoded.rows["b"].as_primitive::<Int32Type>().values(), &[2; 5]);
}

/// The value of a nullable column for each JSON text, printed; `misfit` where it does not fit.
fn values(data_type: &DataType, texts: &[&str]) -> Vec<String> {
    let stream = stream(vec![column("v", data_type.clone(), true)]);
    let records: Vec<String> = texts.iter().map(|text| format!(r#"{{"v":{text}}}"#)).collect();
    let bytes: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
    let decoded = decode(&stream, &["v"], &bytes);
    assert_eq!(decoded.malformed, []);
    let values = &decoded.rows["v"];
    assert_eq!(values.data_type(), data_type);
    let misfits = decoded.nulled.first().map(|(_, rows)| rows.clone()).unwrap_or_default();
    let show = |row: usize| match misfits.contains(&u32::try_from(row).unwrap()) {
        true => {
            assert!(values.is_null(row) || values.data_type().is_nested());
            "misfit".to_owned()
        }
        false if values.is_null(row) => "NULL".to_owned(),
        false => array_value_to_string(values, row).unwrap(),
    };
    (0..values.len()).map(show).collect()
}

fn check(data_type: &DataType, cases: &[(&str, &str)]) {
    let (texts, expected): (Vec<&str>, Vec<&str>) = cases.iter().copied().unzip();
    assert_eq!(values(data_type, &texts), expected, "{data_type}");
}

#[test]
fn what_fits_which_type() {
    check(
        &DataType::Boolean,
        &[
            ("true", "true"),
            ("false", "false"),
            (r#""True""#, "true"),
            ("1", "misfit"),
            (r#""""#, "misfit"),
            ("null", "NULL"),
        ],
    );
    check(
        &DataType::Int32,
        &[
            ("5", "5"),
            (r#"" -5 ""#, "-5"),
            ("5.0", "5"),
            ("5e2", "500"),
            ("2147483647", "2147483647"),
            ("2147483648", "misfit"),
            ("5.7", "misfit"),
            (r#""5.7""#, "misfit"),
            (r#""""#, "misfit"),
            ("true", "misfit"),
            ("[5]", "misfit"),
            ("1e999", "misfit"),
            ("null", "NULL"),
        ],
    );
    check(
        &DataType::Int64,
        &[
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "misfit"),
            ("9007199254740993", "9007199254740993"),
        ],
    );
    check(
        &DataType::Float64,
        &[
            ("1.5", "1.5"),
            ("1", "1.0"),
            (r#""-1e3""#, "-1000.0"),
            ("1e400", "misfit"),
            (r#""NaN""#, "misfit"),
            (r#""inf""#, "misfit"),
        ],
    );
    check(
        &DataType::Decimal128(6, 2),
        &[
            ("12.5", "12.50"),
            (r#""12.500""#, "12.50"),
            ("1250e-2", "12.50"),
            ("9999.99", "9999.99"),
            ("10000", "misfit"),
            ("-9999.995", "misfit"),
            ("12.505", "misfit"),
            (r#""12,50""#, "misfit"),
        ],
    );
    check(
        &DataType::Utf8,
        &[
            (r#""""#, ""),
            (r#"" a ""#, " a "),
            (r#""a\"b\\c\/d\n\u00e9\ud83d\ude00""#, "a\"b\\c/d\né😀"),
            (r#""nul\u0000""#, "nul\0"),
            ("1.50", "1.50"),
            ("true", "true"),
            (r#""\ud83d""#, "misfit"),
            (r#""\ud83d\u0041""#, "misfit"),
            (r#""\ude00""#, "misfit"),
            (r#"{"a":1}"#, "misfit"),
            ("[]", "misfit"),
            (r#""null""#, "null"),
            ("null", "NULL"),
        ],
    );
    check(
        &DataType::Date32,
        &[
            (r#""2024-02-29""#, "2024-02-29"),
            (r#""2024-02-29T00:00:00Z""#, "2024-02-29"),
            (r#""2024-02-29T01:00:00Z""#, "misfit"),
            (r#""2023-02-29""#, "misfit"),
            ("19000", "misfit"),
        ],
    );
    check(
        &DataType::Time64(TimeUnit::Microsecond),
        &[
            (r#""12:34:56.5""#, "12:34:56.500"),
            ("5", "misfit"),
            (r#""25:00""#, "misfit"),
        ],
    );
    check(
        &DataType::Timestamp(TimeUnit::Microsecond, None),
        &[
            (r#""2024-02-29 12:00""#, "2024-02-29T12:00:00"),
            (r#""2024-02-29T12:00:00+02:00""#, "2024-02-29T10:00:00"),
            ("1511658000", "misfit"),
            (r#""1511658000""#, "misfit"),
        ],
    );
    check(
        &timestamptz(),
        &[
            (
                r#""2024-02-29T12:00:00.123456789+02:00""#,
                "2024-02-29T10:00:00.123456Z",
            ),
            (r#""0001-01-01""#, "0001-01-01T00:00:00Z"),
        ],
    );
    check(
        &DataType::Binary,
        &[
            (r#""\\x00ff""#, "00ff"),
            (r#""00FF""#, "00ff"),
            (r#""""#, ""),
            (r#""0""#, "misfit"),
            (r#""0g""#, "misfit"),
            ("12", "misfit"),
        ],
    );
}

#[test]
fn lists_and_structs() {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
    check(
        &list,
        &[
            ("[1, 2,null]", "[1, 2, ]"),
            ("[]", "[]"),
            ("null", "NULL"),
            ("1", "misfit"),
            ("[3]", "[3]"),
            ("[1,\"x\"]", "misfit"),
            ("[4]", "[4]"),
        ],
    );
    let fields = Fields::from(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("tags", list.clone(), true),
    ]);
    let texts = [r#"{"tags":[7],"a":1}"#, "null", "[]", r#"{"a":"x","tags":[1]}"#, "{}"];
    let stream = stream(vec![column("v", DataType::Struct(fields), true)]);
    let records: Vec<String> = texts.iter().map(|text| format!(r#"{{"v":{text}}}"#)).collect();
    let bytes: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
    let decoded = decode(&stream, &["v"], &bytes);
    assert_eq!(decoded.nulled, [("v".to_owned(), vec![2, 3])]);
    let structs: &StructArray = decoded.rows["v"].as_struct();
    let valid: Vec<bool> = (0..5).map(|row| structs.is_valid(row)).collect();
    assert_eq!(valid, [true, false, false, true, true]);
    let numbers: Vec<Option<i32>> = structs.column(0).as_primitive::<Int32Type>().iter().collect();
    assert_eq!(numbers, [Some(1), None, None, None, None]);
    assert_eq!(
        structs
            .column(1)
            .as_list::<i32>()
            .value(0)
            .as_primitive::<Int32Type>()
            .values(),
        &[7]
    );
    assert_eq!(
        structs
            .column(1)
            .as_list::<i32>()
            .value(3)
            .as_primitive::<Int32Type>()
            .values(),
        &[1]
    );
}

#[test]
fn an_item_that_does_not_fit_condemns_a_record_that_it_judges() {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
    let plain = stream(vec![column("v", list, false)]);
    let decoded = decode(&plain, &[], &[br#"{"v":[1,"x"]}"#, br#"{"v":[1,null]}"#]);
    assert_eq!(
        decoded.malformed,
        [(0, r#"column "v": [1,"x"] is not INT[]"#.to_owned())]
    );
}

#[test]
fn the_event_time_is_read_as_declared_and_other_times_are_not() {
    let day_and_time = |event_time_format| Stream {
        event_time: Some("at".to_owned()),
        event_time_format,
        timezone: Some("Europe/Berlin".to_owned()),
        ..stream(vec![
            column("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            column("other", timestamptz(), true),
        ])
    };
    let seconds = day_and_time(EventTimeFormat::UnixSeconds);
    let decoded = decode(&seconds, &["other"], &[br#"{"at":1511658000,"other":1511658000}"#]);
    assert_eq!(decoded.event_times, Some(vec![1_511_658_000_000_000]));
    assert_eq!(decoded.nulled, [("other".to_owned(), vec![0])]);
    let local = day_and_time(EventTimeFormat::Pattern("%d.%m.%Y %H:%M".to_owned()));
    let decoded = decode(
        &local,
        &["other"],
        &[br#"{"at":"01.07.2024 12:00","other":"2024-07-01 12:00"}"#],
    );
    let show = |name: &str| array_value_to_string(&decoded.rows[name], 0).unwrap();
    assert_eq!(show("at"), "2024-07-01T10:00:00");
    assert_eq!(show("other"), "2024-07-01T12:00:00Z");
}

#[test]
fn a_stream_without_event_time_has_none() {
    let plain = stream(vec![column("a", DataType::Int32, true)]);
    let decoded = decode(&plain, &[], &[br#"{"a":"x"}"#, b"{}"]);
    assert_eq!(decoded.event_times, None);
    assert_eq!(decoded.good, [0, 1]);
    assert_eq!(decoded.rows.num_columns(), 0);
    assert_eq!(decoded.rows.num_rows(), 2, "rows count even without a column");
    assert_eq!(decoded.nulled, [], "only asked columns are counted");
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let unknown = Decoder::new(&reviews(), &["nope".to_owned()]).unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownColumn { column, .. } if column == "nope"));
    let zone = Stream {
        timezone: Some("Europe/Atlantis".to_owned()),
        ..reviews()
    };
    let refused = Decoder::new(&zone, &[]).unwrap_err().to_string();
    assert_eq!(refused, r#"column "at": unknown timezone "Europe/Atlantis""#);
    let odd = stream(vec![column("v", DataType::UInt8, true)]);
    assert!(Decoder::new(&odd, &["v".to_owned()]).is_err());
}

/// What one field of a random record holds, and what each reader of it must make of it.
fn field(name: &'static str) -> BoxedStrategy<String> {
    let value = match name {
        "review_id" | "product_id" | "note" => {
            select(&[r#""a""#, r#""b\n""#, "1", "null", "[]", r#"{"x":"}"}"#, r#""\ud800""#][..])
        }
        "star_rating" | "votes" => select(&["1", r#""2""#, "5.7", "2147483648", "null", r#""x""#, "true", "[1]"][..]),
        "at" => select(
            &[
                r#""2024-01-01""#,
                r#""2024-01-01T10:00:00Z""#,
                r#""1970-01-01""#,
                "null",
                "5",
                r#""x""#,
            ][..],
        ),
        _ => select(&["0", r#""?""#, "[[[]]]"][..]),
    };
    value.prop_map(move |value| format!(r#""{name}":{value}"#)).boxed()
}

fn random_record() -> impl Strategy<Value = Vec<u8>> {
    let names = &[
        "review_id",
        "product_id",
        "star_rating",
        "at",
        "votes",
        "note",
        "unknown",
    ][..];
    let some = proptest::collection::vec(select(names).prop_flat_map(field), 0..9);
    // Most records have every column right, so that many are good.
    let whole = proptest::collection::vec(select(&names[5..]).prop_flat_map(field), 0..3).prop_map(|mut fields| {
        let right = [
            r#""review_id":"r""#,
            r#""product_id":"p""#,
            r#""at":"2024-01-01""#,
            r#""votes":1"#,
        ];
        fields.extend(right.map(str::to_owned));
        fields
    });
    let object = prop_oneof![some, whole.clone(), whole].prop_map(|fields| format!("{{{}}}", fields.join(",")));
    (object, 0..12_u8, any::<proptest::sample::Index>()).prop_map(|(text, damage, place)| {
        let mut bytes = text.into_bytes();
        match damage {
            0 => bytes.truncate(place.index(bytes.len())),
            1 => bytes.drain(..place.index(bytes.len())).for_each(drop),
            2 => bytes.extend_from_slice(br#"{"votes":1}"#),
            3 => {
                let at = place.index(bytes.len());
                bytes[at] = 0xff;
            }
            _ => {}
        }
        bytes
    })
}

/// All that a decoding says of each record: why it is malformed, or its values by column and whether they were nulled.
type Verdict = Result<BTreeMap<String, (String, bool)>, String>;

fn verdicts(stream: &Stream, columns: &[&str], runs: &[&[Vec<u8>]]) -> Vec<Verdict> {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut decoder = Decoder::new(stream, &columns).unwrap();
    let mut all = Vec::new();
    for run in runs {
        let decoded = decoder.decode(&BinaryArray::from_iter_values(*run)).unwrap();
        let mut verdicts: Vec<Option<Verdict>> = vec![None; run.len()];
        for (record, reason) in &decoded.malformed {
            assert!(verdicts[*record].replace(Err(reason.clone())).is_none());
        }
        for (row, record) in decoded.good.iter().enumerate() {
            let value = |(name, array): (&String, &ArrayRef)| {
                let misfits = decoded.nulled.iter().find(|(column, _)| column == name);
                let nulled = misfits.is_some_and(|(_, rows)| rows.contains(&u32::try_from(row).unwrap()));
                (name.clone(), (array_value_to_string(array, row).unwrap(), nulled))
            };
            let schema = decoded.rows.schema();
            let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            let values = names.iter().zip(decoded.rows.columns()).map(value).collect();
            assert!(verdicts[*record].replace(Ok(values)).is_none());
        }
        all.extend(verdicts.into_iter().map(Option::unwrap));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Law 4: the verdict on a record is the same alone, in any batch, and whichever columns are asked for.
    #[test]
    fn the_verdict_is_the_records_own(
        records in proptest::collection::vec(random_record(), 1..24),
        splits in proptest::collection::vec(1..8_usize, 24),
        asked in proptest::sample::subsequence(vec!["star_rating", "note", "votes", "product_id"], 0..=4),
    ) {
        let mut stream = reviews();
        stream.columns.push(column("note", DataType::Utf8, true));
        let every: Vec<&str> = stream.columns.iter().map(|column| column.name.as_str()).collect();
        let alone: Vec<&[Vec<u8>]> = records.chunks(1).collect();
        let expected = verdicts(&stream, &every, &alone);
        let mut runs = Vec::new();
        let mut rest = &records[..];
        for split in splits {
            let (run, left) = rest.split_at(split.min(rest.len()));
            runs.push(run);
            rest = left;
        }
        let judging = stream.judging_columns();
        for (record, (own, among)) in expected.iter().zip(verdicts(&stream, &asked, &runs)).enumerate() {
            let narrowed = own.clone().map(|mut values| {
                values.retain(|name, _| asked.contains(&name.as_str()) || judging.contains(&name.as_str()));
                values
            });
            prop_assert_eq!(narrowed, among, "record {}", record);
        }
    }
}

#[test]
fn random_records_are_both_good_and_bad() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let sample: Vec<Vec<u8>> = (0..200)
        .map(|_| random_record().new_tree(&mut runner).unwrap().current())
        .collect();
    let all: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let good = decode(&reviews(), &[], &all).good.len();
    assert!((40..160).contains(&good), "{good} of 200 are good");
}

#[test]
fn output_types_are_the_declared_ones() {
    let stream = reviews();
    let decoded = decode(&stream, &["star_rating"], &[]);
    assert_eq!(decoded.rows.schema(), stream.declared_schema());
    let none: RecordBatch = concat_batches(&decoded.rows.schema(), [&decoded.rows]).unwrap();
    assert_eq!(none.num_rows(), 0);
    let prices = crate::scripted::stream(vec![
        column("price", DataType::Decimal128(10, 2), true),
        column("rate", DataType::Float64, true),
        column("count", DataType::Int64, true),
    ]);
    let decoded = decode(
        &prices,
        &["count", "rate", "price"],
        &[br#"{"rate":0.5,"price":1.1,"count":3}"#],
    );
    assert_eq!(decoded.rows["price"].as_primitive::<Decimal128Type>().value(0), 110);
    assert_eq!(decoded.rows["rate"].as_primitive::<Float64Type>().value(0), 0.5);
    assert_eq!(decoded.rows["count"].as_primitive::<Int64Type>().value(0), 3);
    assert_eq!(
        decoded.rows.schema(),
        prices.declared_schema(),
        "in the order of the declaration"
    );
}
