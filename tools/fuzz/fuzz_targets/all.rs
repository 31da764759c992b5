//! The target that `SPANWAY_FUZZ` names, for libFuzzer. What the targets do: `../src/lib.rs`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanway_fuzz::{Target, target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("SPANWAY_FUZZ").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("SPANWAY_FUZZ={name} names no target; see TARGETS"))
});

fuzz_target!(|data: &[u8]| spanway_fuzz::in_time(*CHOSEN, data));
