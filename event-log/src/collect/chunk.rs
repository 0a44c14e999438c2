//! The body of `POST /v1/streams/{stream}/import/{file}/{sequence}`: records, one after another. Each is the length of
//! its key (or [`NO_KEY`]), its key, the length of its value, its value; lengths are four bytes, little endian.

use bytes::{Buf, Bytes};

use crate::NewRecord;

/// The media type of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.foldline.records";
/// Stands in the place of a key's length where there is no key.
pub const NO_KEY: u32 = u32::MAX;

/// A body that holds `records`. Headers do not travel.
pub fn encode(records: &[NewRecord]) -> Bytes {
    let bytes = records
        .iter()
        .map(|record| 8 + record.key.as_ref().map_or(0, Bytes::len) + record.value.len())
        .sum();
    let mut body = Vec::with_capacity(bytes);
    for record in records {
        match &record.key {
            None => body.extend_from_slice(&NO_KEY.to_le_bytes()),
            Some(key) => push(&mut body, key),
        }
        push(&mut body, &record.value);
    }
    body.into()
}

/// The records in `body`, which they share; or what is wrong with it.
pub fn decode(mut body: Bytes) -> Result<Vec<NewRecord>, String> {
    let whole = body.len();
    let mut records = Vec::new();
    while !body.is_empty() {
        let key = match take_length(&mut body, whole)? {
            NO_KEY => None,
            length => Some(take(&mut body, length, whole)?),
        };
        let length = take_length(&mut body, whole)?;
        let value = take(&mut body, length, whole)?;
        records.push(NewRecord {
            key,
            value,
            headers: Vec::new(),
        });
    }
    Ok(records)
}

fn push(body: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("records are bounded far below 4 GiB");
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(bytes);
}

fn take_length(body: &mut Bytes, whole: usize) -> Result<u32, String> {
    let at = whole - body.len();
    body.try_get_u32_le()
        .map_err(|_| format!("a length is cut off at byte {at} of {whole}"))
}

fn take(body: &mut Bytes, length: u32, whole: usize) -> Result<Bytes, String> {
    let at = whole - body.len();
    let length = length as usize;
    if length > body.len() {
        return Err(format!("{length} bytes are announced at byte {at} of {whole}"));
    }
    Ok(body.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_travel() {
        let record = |key: Option<&'static str>, value: &'static str| NewRecord {
            key: key.map(Bytes::from),
            value: value.into(),
            headers: Vec::new(),
        };
        let records = vec![record(Some("k"), "v\n\0"), record(None, ""), record(Some(""), "x")];
        let body = encode(&records);
        assert_eq!(decode(body.clone()).as_ref(), Ok(&records));
        assert_eq!(decode(Bytes::new()), Ok(Vec::new()));
        for cut in 1..body.len() {
            let read = decode(body.slice(..cut));
            assert!(read.is_err() || read.is_ok_and(|some| some.len() < 3), "cut at {cut}");
        }
    }
}
