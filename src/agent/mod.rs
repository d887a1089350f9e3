//! (see the crate's table of floors)
