//! The corpus of the fuzz targets, replayed: every input that was ever of interest, and every one that once
//! broke something. What the targets assert is in `tools/fuzz/src`.

#[path = "../tools/fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "not of the product"
)]
mod targets;

use std::fs;
use std::path::Path;

use targets::TARGETS;

#[test]
fn every_input_of_the_corpus_passes_in_time() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/corpus");
    for (name, target, what) in TARGETS {
        let inputs =
            fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("no corpus of {name}: {e}"));
        let mut files: Vec<_> = inputs.map(|input| input.expect("readable").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(&file).expect("readable");
            println!("{name} ({what}): {}", file.display());
            targets::in_time(*target, &data);
        }
    }
}

#[test]
fn the_folder_of_the_corpus_has_no_target_that_does_not_exist() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/corpus");
    for folder in fs::read_dir(corpus).expect("a corpus") {
        let name = folder.expect("readable").file_name().to_string_lossy().into_owned();
        assert!(targets::target(&name).is_some(), "{name} is no target");
    }
}
