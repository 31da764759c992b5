//! `[api]`: where the web API listens, its token, and the names it answers to.
//!
//! Pure. The token itself is the API's: here it is only a path.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::ApiSection;
use super::document::{Item, Section};
use super::error::ConfigError;
use super::file::{OwnPorts, same_socket};
use crate::limits;
use crate::types::PeerName;

/// The keys of the section.
const KEYS: &[&str] = &["listen", "token_file", "base_path", "hosts", "internal"];

pub(super) fn section(
    root: &Section<'_>,
    ports: &OwnPorts,
    name: &PeerName,
    key_file: &Path,
) -> Result<Option<ApiSection>, ConfigError> {
    let Some(section) = root.section("api")? else { return Ok(None) };
    section.only(KEYS)?;
    let listen_item = section.required("listen", "listen = \"127.0.0.1:7080\"")?;
    let listen = address(&listen_item, ports)?;
    let internal = section.item("internal");
    let internal = internal.map(|item| {
        let internal = address(&item, ports)?;
        if same_socket(listen, internal) {
            let line = listen_item.line();
            let text = format!("{} is in line {line} already: choose a free port", item.written());
            return Err(item.error(text));
        }
        Ok(internal)
    });
    Ok(Some(ApiSection {
        listen,
        internal: internal.transpose()?,
        token_file: token_file(&section, name, key_file)?,
        base_path: base_path(&section)?,
        hosts: hosts(&section)?,
    }))
}

fn address(item: &Item<'_>, ports: &OwnPorts) -> Result<SocketAddr, ConfigError> {
    let address = item.address("an address, as in \"127.0.0.1:7080\"")?;
    if address.ip().is_multicast() {
        let text = format!("{} is no address of a host: write one of this host's", item.written());
        return Err(item.error(text));
    }
    if ports.has(address) {
        let (written, range) = (item.written(), ports.range());
        let text = format!("{written} is taken by this peer itself ({range}): choose another port");
        return Err(item.error(text));
    }
    Ok(address)
}

/// By default NAME.token beside the key.
fn token_file(
    section: &Section<'_>,
    name: &PeerName,
    key_file: &Path,
) -> Result<PathBuf, ConfigError> {
    let Some(item) = section.item("token_file") else {
        let folder = key_file.parent().unwrap_or_else(|| Path::new(""));
        return Ok(folder.join(format!("{name}.token")));
    };
    let text = item.text("a path")?;
    if text.is_empty() || text.contains('\0') {
        return Err(item.error(format!("{} is no path: write one in quotes", item.written())));
    }
    let file = section.file().parent().unwrap_or_else(|| Path::new("")).join(text);
    if file == key_file {
        return Err(item.error("is the key of this peer: a token has a file of its own"));
    }
    Ok(file)
}

fn base_path(section: &Section<'_>) -> Result<String, ConfigError> {
    let Some(item) = section.item("base_path") else { return Ok("/".to_owned()) };
    let text = item.text("a path, as in \"/spanway/\"")?;
    let segment = |segment: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(plain)
    };
    let inner = text.strip_prefix('/').map(|text| text.strip_suffix('/').unwrap_or(text));
    match inner {
        Some("") => Ok("/".to_owned()),
        Some(inner)
            if inner.len() <= limits::HTTP_BASE_PATH_MAX && inner.split('/').all(segment) =>
        {
            Ok(format!("/{inner}/"))
        }
        Some(_) | None => Err(item.error(format!(
            "{} is no path: write one of letters, digits and - _ . ~, as in \"/spanway/\"",
            item.written()
        ))),
    }
}

fn hosts(section: &Section<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(item) = section.item("hosts") else { return Ok(Vec::new()) };
    let list = item.list()?;
    if let Some(surplus) = list.get(limits::HTTP_HOSTS_MAX) {
        let max = limits::HTTP_HOSTS_MAX;
        return Err(surplus.error(format!("is one too many: at most {max} names")));
    }
    let host = |entry: &Item<'_>| {
        let text = entry.text("a name, as in \"relay.example:8443\"")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        if text.is_empty() || text.len() > limits::HTTP_HOST_BYTES_MAX || !text.bytes().all(plain) {
            return Err(entry.error(format!(
                "{} is no name of a host: write it as a browser sends it, as in \
                 \"relay.example\" or \"relay.example:8443\"",
                entry.written()
            )));
        }
        Ok(text.to_ascii_lowercase())
    };
    list.iter().map(host).collect()
}
