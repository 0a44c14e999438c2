//! Removes what no generation, commit or reader can still name.
