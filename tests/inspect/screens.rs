//! What every command prints over the fixtures.
