//! Ways in: the HTTP collector and files.
//!
//! [`http`] takes events over HTTP and [`import`] takes them from files ([`split`] cuts a file into rows, [`row`] makes
//! an event of a row). Both store an event as the bytes that it is, judge nothing that the log can judge later, and
//! take the record's key out of the event in one place, [`key`]. [`chunk`] is how an importer hands records to a
//! foldline that is running.

pub mod chunk;
pub mod http;
pub mod import;
mod key;
mod row;
mod split;
