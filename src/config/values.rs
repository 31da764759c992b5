//! Addresses, prefixes and durations as people write them, with errors that say what to write.
//!
//! Also for the command line, so that a flag and a key take the same forms. Names of hosts are not
//! resolved anywhere: an address is numbers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::error::shown;

/// `192.0.2.1:7000` or `[2001:db8::1]:7000`; port 0 is none. IPv4 in IPv6 clothes becomes IPv4, so
/// that one address has one form.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let written = shown(text);
    let port_range = "a port is a number from 1 to 65535";
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(format!("\"{written}\" has port 0: {port_range}"));
        }
        return Ok(canonical(address));
    }
    let forms = "write \"192.0.2.1:7000\" or \"[2001:db8::1]:7000\"";
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("\"{written}\" needs brackets and a port: {forms}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("\"{written}\" has no port: {forms}"));
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("\"{written}\" has no valid port: {port_range}"));
    }
    let host = shown(host);
    Err(format!("\"{host}\" is not an IP address (names are not resolved): {forms}"))
}

/// `192.168.1.0/24`, or one address alone.
pub fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        let written = shown(text);
        format!(
            "\"{written}\" is not an address prefix: write ADDRESS/BITS, as in \"192.168.1.0/24\""
        )
    };
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    match bits.map_or(Ok(bits_max), str::parse::<u8>) {
        Ok(bits) if bits <= bits_max => Ok((address, bits)),
        _ => Err(wrong()),
    }
}

/// `25ms`, `5s`, `1.5 s`, `250us`, `2min`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let written = shown(text);
    let forms = "write a number and a unit (us, ms, s, min), as in \"25ms\" or \"5s\"";
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
    let unit_us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "" if !number.is_empty() => return Err(format!("\"{written}\" has no unit: {forms}")),
        _ => return Err(format!("\"{written}\" is not a duration: {forms}")),
    };
    let us = decimal_us(number, unit_us);
    us.map(Duration::from_micros).ok_or_else(|| format!("\"{written}\" is not a duration: {forms}"))
}

/// `number * unit_us` without floats; at most nine digits on either side of the point.
fn decimal_us(number: &str, unit_us: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 9 && s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole.parse::<u64>().ok()? * unit_us + fraction * unit_us / scale)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        // Keeps the scope of a link-local address, which `SocketAddr::new` would lose.
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => address,
        SocketAddr::V4(_) | SocketAddr::V6(_) => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_read_and_mapped_ones_have_one_form() {
        let read = |text: &str| address(text).expect(text).to_string();
        assert_eq!(read("127.0.0.1:7000"), "127.0.0.1:7000");
        assert_eq!(read("[::1]:7000"), "[::1]:7000");
        assert_eq!(read("[::ffff:127.0.0.1]:7000"), "127.0.0.1:7000");
        assert_eq!(read("[fe80::1%3]:7000"), "[fe80::1%3]:7000");
    }

    #[test]
    fn an_address_that_is_none_says_what_is_wrong_with_it() {
        let error = |text: &str| address(text).expect_err(text);
        assert!(error("127.0.0.1:0").contains("port 0"));
        assert!(error("127.0.0.1:70000").contains("1 to 65535"));
        assert!(error("127.0.0.1:abc").contains("1 to 65535"));
        assert!(error("127.0.0.1").contains("has no port"));
        assert!(error("::1").contains("brackets"));
        assert!(error("localhost:7000").contains("names are not resolved"));
    }

    #[test]
    fn prefixes_have_as_many_bits_as_their_family() {
        assert_eq!(prefix("10.0.0.0/8").map(|(_, bits)| bits), Ok(8));
        assert_eq!(prefix("10.0.0.1").map(|(_, bits)| bits), Ok(32));
        assert_eq!(prefix("2001:db8::/48").map(|(_, bits)| bits), Ok(48));
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "x/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("25ms"), Ok(Duration::from_millis(25)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert!(duration("25").expect_err("no unit").contains("has no unit"));
        for text in ["", "ms", "-5ms", "1e9s", "5 fortnights", "9999999999s", "1.2.3s", ".5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
