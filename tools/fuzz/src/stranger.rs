//! What somebody who is not known may name: an address, and an invitation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use spanway::daemon::invitation::Signed;
use spanway::types::address::{Kind, Reach, canonical};

use super::bytes::Choices;

/// Networks that are not everybody's, each with what it is. The longest that holds an address counts.
const NETWORKS: [(&str, u8, Kind); 33] = [
    ("0.0.0.0", 8, Kind::Unspecified),
    ("10.0.0.0", 8, Kind::Private),
    ("100.64.0.0", 10, Kind::Private),
    ("127.0.0.0", 8, Kind::Loopback),
    ("169.254.0.0", 16, Kind::LinkLocal),
    ("172.16.0.0", 12, Kind::Private),
    ("192.0.0.0", 24, Kind::Reserved),
    ("192.168.0.0", 16, Kind::Private),
    ("198.18.0.0", 15, Kind::Private),
    ("224.0.0.0", 4, Kind::Multicast),
    ("240.0.0.0", 4, Kind::Reserved),
    ("255.255.255.255", 32, Kind::Broadcast),
    ("::", 96, Kind::Reserved),
    ("::", 128, Kind::Unspecified),
    ("::1", 128, Kind::Loopback),
    ("64:ff9b:1::", 48, Kind::Private),
    ("100::", 64, Kind::Reserved),
    ("fc00::", 7, Kind::Private),
    ("fe80::", 10, Kind::LinkLocal),
    ("fec0::", 10, Kind::Private),
    ("ff00::", 8, Kind::Multicast),
    // Everybody's, and here so that inputs come near.
    ("8.0.0.0", 7, Kind::Public),
    ("11.0.0.0", 8, Kind::Public),
    ("126.0.0.0", 8, Kind::Public),
    ("128.0.0.0", 16, Kind::Public),
    ("172.32.0.0", 12, Kind::Public),
    ("192.0.1.0", 24, Kind::Public),
    ("223.0.0.0", 8, Kind::Public),
    ("2001:db8::", 32, Kind::Public),
    ("64:ff9b::", 64, Kind::Public),
    ("100:0:0:1::", 64, Kind::Public),
    ("2002::", 16, Kind::Public),
    ("2001::", 32, Kind::Public),
];

/// Networks whose addresses have an IPv4 one inside, from which bit on, and whether it is inverted.
const CLOTHES: [(&str, u8, u32, bool); 6] = [
    ("::", 96, 96, false),
    ("::ffff:0:0:0", 96, 96, false),
    ("64:ff9b::", 96, 96, false),
    ("64:ff9b:1::", 48, 96, false),
    ("2002::", 16, 16, false),
    ("2001::", 32, 96, true),
];
/// IPv4 in the clothes that are taken off at once.
const MAPPED: (&str, u8) = ("::ffff:0:0", 96);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// As a text of zeros and ones.
fn bits(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    }
}

fn is_in(ip_: IpAddr, network: &str, length: u8) -> bool {
    let network = ip(network);
    network.is_ipv4() == ip_.is_ipv4()
        && bits(network)[..usize::from(length)] == bits(ip_)[..usize::from(length)]
}

fn kind(ip: IpAddr) -> Kind {
    let holds = NETWORKS.iter().filter(|(network, length, _)| is_in(ip, network, *length));
    let itself = holds.max_by_key(|(_, length, _)| *length).map_or(Kind::Public, |found| found.2);
    let IpAddr::V6(v6) = ip else { return itself };
    let alone = v6.to_bits() < 2;
    let inside = CLOTHES.iter().find(|(network, length, ..)| is_in(ip, network, *length) && !alone);
    let inside = inside.map(|(_, _, from, inverted)| {
        let text = &bits(ip)[*from as usize..*from as usize + 32];
        let v4 = u32::from_str_radix(text, 2).expect("zeros and ones");
        kind(IpAddr::V4(Ipv4Addr::from_bits(if *inverted { !v4 } else { v4 })))
    });
    inside.map_or(itself, |inside| inside.max(itself))
}

fn undressed(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if is_in(ip, MAPPED.0, MAPPED.1) => {
            Ipv4Addr::from_bits((v6.to_bits() & 0xffff_ffff) as u32).into()
        }
        other => other,
    }
}

/// Any address, or one near or in a network of the tables, perhaps with an IPv4 one of them inside.
fn any_address(choices: &mut Choices<'_>) -> SocketAddr {
    let v4 = |choices: &mut Choices<'_>| {
        let noise = (choices.u64() >> 32) as u32;
        match NETWORKS[choices.below(NETWORKS.len())] {
            (network, length, _) if !network.contains(':') => {
                let IpAddr::V4(network) = ip(network) else { unreachable!("without colons") };
                network.to_bits() | noise.checked_shr(length.into()).unwrap_or(0)
            }
            _ => noise,
        }
    };
    let noise = u128::from(choices.u64()) << 64 | u128::from(choices.u64());
    let network = |network: &str, length: u8, noise: u128| {
        let IpAddr::V6(network) = ip(network) else { unreachable!("with colons") };
        network.to_bits() | noise.checked_shr(length.into()).unwrap_or(0)
    };
    let bits = match choices.below(4) {
        0 => return SocketAddr::new(Ipv4Addr::from_bits(v4(choices)).into(), choices.u16()),
        1 => match NETWORKS[choices.below(NETWORKS.len())] {
            (text, length, _) if text.contains(':') => network(text, length, noise),
            _ => noise,
        },
        2 => network(MAPPED.0, MAPPED.1, 0) | u128::from(v4(choices)),
        _ => {
            let (text, length, from, inverted) = CLOTHES[choices.below(CLOTHES.len())];
            let hidden = v4(choices);
            let hidden = u128::from(if inverted { !hidden } else { hidden }) << (96 - from);
            network(text, length, 0) | hidden
        }
    };
    SocketAddr::new(Ipv6Addr::from_bits(bits).into(), choices.u16())
}

pub(crate) fn address(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (private, loopback) = (choices.below(2) == 1, choices.below(2) == 1);
    let listen = if loopback { "127.0.0.1:7000" } else { "203.0.113.9:7000" };
    let links = private.then_some("10.0.0.1:7000").into_iter();
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let reach = Reach::new(at(listen), 7_000..=7_003, links.map(at));
    while !choices.is_empty() {
        let named = any_address(&mut choices);
        let (own, kind) = (undressed(named.ip()), kind(undressed(named.ip())));
        assert_eq!(Kind::of(named.ip()), kind, "{named}");
        assert_eq!(canonical(named), SocketAddr::new(own, named.port()));
        let here = own == at(listen).ip() && (7_000..=7_003).contains(&named.port());
        let reachable = match kind {
            Kind::Public => true,
            Kind::Private => private,
            Kind::Loopback => loopback,
            _ => false,
        };
        let expected = reachable && named.port() != 0 && !here;
        assert_eq!(reach.check(named).is_ok(), expected, "{named}, {kind:?}");
    }
}

/// As text, as the bytes behind it, and as bytes whose signature is right.
pub(crate) fn invitation(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for text in [text.clone().into_owned(), format!("spanway1-{text}")] {
        if let Ok(signed) = Signed::from_text(&text) {
            let blank = |text: &str| text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            let given: String = blank(&text);
            assert_eq!(signed.text(), given);
        }
    }
    if let Ok(signed) = Signed::from_bytes(data) {
        assert_eq!(signed.bytes(), data);
        assert_eq!(Signed::from_text(&signed.text()), Ok(signed));
    }
}
