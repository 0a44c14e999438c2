//! The checks that every log passes.
