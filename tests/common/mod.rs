//! What the integration tests share. Each test program uses a part of it.

#![allow(dead_code, reason = "each test program uses another part")]

pub(crate) mod source;
