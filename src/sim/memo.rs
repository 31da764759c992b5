//! Signatures that were checked before in this thread: all peers of a world check the same ones.
//!
//! Only saves time: the answers are those of [`graph::right`].

use std::cell::RefCell;
use std::collections::HashMap;

use crate::proto::graph;
use crate::types::PublicKey;

/// Worlds with more signatures than this check some of them twice.
const REMEMBERED_MAX: usize = 1 << 16;

type Known = HashMap<([u8; 64], PublicKey), (Vec<u8>, bool)>;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::new());
}

/// As [`graph::right`].
pub(super) fn right(key: &PublicKey, bytes: &[u8], signature: &[u8; 64]) -> bool {
    KNOWN.with_borrow_mut(|known| {
        match known.get(&(*signature, *key)) {
            Some((signed, right)) if signed == bytes => return *right,
            Some(_) | None => {}
        }
        let right = graph::right(key, bytes, signature);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert((*signature, *key), (bytes.to_vec(), right));
        right
    })
}
