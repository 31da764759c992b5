//! What a person writes: the configuration file and the command line.

use std::path::Path;

use spanway::config::settings::settings;
use spanway::config::{Config, edit};

pub(crate) fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("/etc/spanway/peer.toml");
    let config = match Config::parse(file, text) {
        Ok(config) => config,
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains("peer.toml"), "it names the file: {told}");
            return;
        }
    };
    assert!(!settings(&config, text).is_empty());
    assert!(config.reload(&config).is_ok(), "nothing has changed");
    // Taken out and put back, a link is what it was, and all else too.
    if let Some(link) = config.links.last() {
        let (shorter, without) = edit::remove_link(file, text, &link.peer).expect("it is there");
        assert_eq!(without.links.len() + 1, config.links.len());
        let (_, again) = edit::add_link(file, &shorter, link).expect("it was valid before");
        assert_eq!(again, config, "{text}");
    }
}

pub(crate) fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words = std::iter::once("spanway").chain(text.split('\n'));
    if let Err(error) = spanway::cli::command().try_get_matches_from(words) {
        assert!(!error.to_string().is_empty());
    }
}
