//! One record's text to the places of its values.
//!
//! `serde_json` checks the syntax of the whole record, whichever columns are asked for, without building anything of
//! it and without recursion (nesting may be as deep as it likes). Objects as most producers write them are walked
//! through before that ([`quick`]), in a fraction of the time; what is not quite so is left to `serde_json`, and so is every
//! verdict.

mod quick;

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Per field, per record: the JSON text of the value; `None` where it is missing or null.
pub(super) type Slots<'a> = Vec<Vec<Option<&'a str>>>;

/// Finds the values of some fields in JSON objects.
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    fields: HashMap<String, usize>,
    /// The names of the last object, by position, and which field each is: objects mostly look like the one before.
    shape: Vec<(String, Option<usize>)>,
    /// Of the last record: room for those of the next one.
    quotes: quick::Quotes,
}

/// Positions beyond this are looked up by name.
const SHAPE_MAX: usize = 256;

impl Scanner {
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let fields = names
            .into_iter()
            .enumerate()
            .map(|(field, name)| (name.to_owned(), field))
            .collect();
        Self {
            fields,
            shape: Vec::new(),
            quotes: quick::Quotes::default(),
        }
    }

    /// Room for `rows` objects.
    pub(super) fn slots<'a>(&self, rows: usize) -> Slots<'a> {
        vec![vec![None; rows]; self.fields.len()]
    }

    /// Puts the values of the object `text` at `row`. Of a field that is there twice, the last one counts.
    /// On failure nothing is put.
    pub(super) fn scan<'a>(&mut self, text: &'a str, slots: &mut Slots<'a>, row: usize) -> Result<(), String> {
        if self.quick(text, slots, row) {
            return Ok(());
        }
        self.scan_slowly(text, slots, row)
    }

    fn scan_slowly<'a>(&mut self, text: &'a str, slots: &mut Slots<'a>, row: usize) -> Result<(), String> {
        let mut json = serde_json::Deserializer::from_str(text);
        let object = Object {
            scanner: self,
            slots,
            row,
        };
        let scanned = json.deserialize_map(object).and_then(|()| json.end());
        scanned.map_err(|cause| {
            for field in slots.iter_mut() {
                field[row] = None;
            }
            cause.to_string()
        })
    }

    fn field(&mut self, position: usize, name: &str) -> Option<usize> {
        if let Some((known, field)) = self.shape.get(position)
            && known == name
        {
            return *field;
        }
        let field = self.fields.get(name).copied();
        if let Some((known, known_field)) = self.shape.get_mut(position) {
            known.clear();
            known.push_str(name);
            *known_field = field;
        } else if position < SHAPE_MAX {
            self.shape.push((name.to_owned(), field));
        }
        field
    }
}

/// The JSON texts of the items of an array.
pub(super) fn items<'a>(text: &'a str, found: &mut Vec<Option<&'a str>>) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_seq(Items(found)).map_err(|cause| cause.to_string())
}

fn unless_null(value: &RawValue) -> Option<&str> {
    Some(value.get()).filter(|text| *text != "null")
}

struct Object<'s, 'a> {
    scanner: &'s mut Scanner,
    slots: &'s mut Slots<'a>,
    row: usize,
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut position = 0;
        while let Some(field) = map.next_key_seed(Name {
            scanner: self.scanner,
            position,
        })? {
            match field {
                Some(field) => self.slots[field][self.row] = unless_null(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            position += 1;
        }
        Ok(())
    }
}

struct Name<'s> {
    scanner: &'s mut Scanner,
    position: usize,
}

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.scanner.field(self.position, name))
    }
}

struct Items<'f, 'a>(&'f mut Vec<Option<&'a str>>);

impl<'a> Visitor<'a> for Items<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            self.0.push(unless_null(item));
        }
        Ok(())
    }
}
