//! Ways in: the HTTP collector and files.
