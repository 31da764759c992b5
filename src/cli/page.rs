//! `spanway page`: the address of the web pages, with the token that they ask for.
//!
//! Reads files only: the address is the same whether the daemon runs or not. The token stands behind `#`,
//! which a browser keeps to itself.

use std::net::{IpAddr, SocketAddr};

use super::Target;
use super::screen::{CliError, Fail, print, show};
use crate::api::http::token::Token;
use crate::config::Config;

pub(super) fn page(target: &Target) -> Result<(), CliError> {
    let failure = |error: String| CliError::failure(error);
    let config = Config::load(target.config_file()?).map_err(|error| failure(error.to_string()))?;
    let Some(api) = &config.api else {
        let file = config.file.display();
        let text = format!(
            "{file} has no [api] section: add `[api]` and `listen = \"127.0.0.1:7080\"`, and start the \
             daemon again"
        );
        return Err(CliError::new(Fail::Failure, text));
    };
    let token = Token::load(&api.token_file).map_err(|error| {
        failure(format!("{error}; the daemon makes it when it starts for the first time"))
    })?;
    let address = format!("http://{}{}", reachable(api.listen), api.base_path);
    let page = format!("{address}#token={}", token.as_str());
    let shown = serde_json::json!({
        "page": page,
        "api": format!("{address}api/"),
        "token": token.as_str(),
        "token_file": api.token_file,
    });
    if target.json {
        return show(target, &shown, |_, _, _| Ok(()));
    }
    // As long as it is: half a token opens nothing.
    print(|out, _| writeln!(out, "{page}"))
}

/// Where a browser of this host finds a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => listen.ip(),
    };
    SocketAddr::new(ip, listen.port())
}
