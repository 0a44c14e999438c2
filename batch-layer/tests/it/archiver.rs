//! The log into the archive.
