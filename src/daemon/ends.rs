//! The local socket of a channel end: where it is bound, who may send into it, where frames leave to.
//!
//! Pure but for [`EndPlan::bind`], which makes the socket the engine's worker uses from then on. Every
//! refusal is a text for the person who opened the channel or wrote the service.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::{Service, ServiceAddress};
use crate::engine::{AllowedFrom, Deliver};
use crate::{limits, net};

/// What the person who opens a channel said about its local socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenerAddresses {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) deliver: Option<SocketAddr>,
    pub(crate) from: Option<(IpAddr, u8)>,
    /// What is above the channel's rate waits for a moment.
    pub(crate) shape: bool,
}

/// The end of a channel, about to be used.
#[derive(Debug)]
pub(crate) enum NewEnd {
    Socket {
        plan: EndPlan,
        socket: UdpSocket,
        listen: SocketAddr,
    },
    /// Inside the program that is this peer.
    Own,
}

impl NewEnd {
    /// Where it listens and where it delivers to.
    pub(crate) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Self::Own => (None, None),
            Self::Socket { plan, listen, .. } => match plan.deliver {
                Deliver::To(address) | Deliver::Framed(address) => (Some(*listen), Some(address)),
                Deliver::LastSender => (Some(*listen), None),
            },
        }
    }
}

/// A socket to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndPlan {
    pub(crate) bind: SocketAddr,
    pub(crate) from: AllowedFrom,
    pub(crate) deliver: Deliver,
    pub(crate) shape: bool,
}

impl EndPlan {
    /// The end of the peer that asked for the channel.
    pub(crate) fn of_opener(addresses: &OpenerAddresses) -> Result<Self, String> {
        let loopback = match addresses.deliver {
            Some(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Some(SocketAddr::V4(_)) | None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let mut bind = addresses.listen.unwrap_or_else(|| SocketAddr::new(loopback, 0));
        if let Some(deliver) = addresses.deliver {
            check_deliver(deliver)?;
            if deliver.is_ipv4() != bind.is_ipv4() {
                return Err(format!(
                    "listen {bind} and deliver {deliver} are of different families: use IPv4 or IPv6 for both"
                ));
            }
            if addresses.listen.is_none() && !is_loopback(deliver.ip()) {
                bind = unspecified(deliver);
            }
        }
        let outside = addresses.listen.into_iter().chain(addresses.deliver);
        for address in outside.filter(|address| !is_loopback(address.ip())) {
            if addresses.from.is_none() {
                return Err(format!(
                    "{address} is not a loopback address: say with --from ADDRESS/BITS who may send there"
                ));
            }
        }
        let from = allowed(addresses.from);
        let deliver = addresses.deliver.map_or(Deliver::LastSender, Deliver::To);
        Ok(Self { bind, from, deliver, shape: addresses.shape })
    }

    /// The end of a configured service. `receiver` is the address of a `spanway recv`, if there is one.
    pub(crate) fn of_service(
        service: &Service,
        receiver: Option<SocketAddr>,
    ) -> Result<Self, String> {
        let (name, shape) = (&service.name, service.shape);
        match service.kind {
            ServiceAddress::Deliver(deliver) => {
                check_deliver(deliver)?;
                if !is_loopback(deliver.ip()) && service.from.is_none() {
                    return Err(needs_from(name.as_str(), deliver));
                }
                let from = AllowedFrom::Only(deliver);
                let bind = beside(deliver);
                Ok(Self { bind, from, deliver: Deliver::To(deliver), shape })
            }
            ServiceAddress::Listen(listen) => {
                if !is_loopback(listen.ip()) && service.from.is_none() {
                    return Err(needs_from(name.as_str(), listen));
                }
                let from = allowed(service.from);
                Ok(Self { bind: listen, from, deliver: Deliver::LastSender, shape })
            }
            ServiceAddress::Receive => {
                let receiver =
                    receiver.ok_or_else(|| format!("nobody receives service {name} now"))?;
                let from = AllowedFrom::Only(receiver);
                let bind = beside(receiver);
                Ok(Self { bind, from, deliver: Deliver::Framed(receiver), shape })
            }
        }
    }

    /// Makes and binds the socket.
    pub(crate) fn bind(self) -> Result<NewEnd, String> {
        match self.try_bind() {
            Ok((socket, listen)) => Ok(NewEnd::Socket { plan: self, socket, listen }),
            Err(error) => Err(format!("cannot use {}: {}", self.bind, in_words(&error))),
        }
    }

    /// As the workers' own ports: not shared, DF set, with a large receive buffer.
    fn try_bind(&self) -> io::Result<(UdpSocket, SocketAddr)> {
        let (socket, _) = net::bind_worker(self.bind)?;
        socket.set_nonblocking(true)?;
        let listen = socket.local_addr()?;
        Ok((socket, listen))
    }
}

/// Open files that no channel end may take: neighbours and local clients must still be able to connect, or
/// nobody could close a channel any more.
pub(crate) fn other_files(workers: usize, links: usize, web: bool) -> u64 {
    let clients = limits::CLIENTS_MAX + limits::HALF_OPEN_MAX;
    let each = limits::LINK_FILES + limits::HALF_OPEN_PER_NEIGHBOUR_MAX as u64;
    let lasting = limits::WORKER_FILES * workers as u64 + links as u64 * each;
    let web = if web { limits::HTTP_FILES } else { 0 };
    limits::PROCESS_FILES + web + clients as u64 + lasting
}

/// An error of bind or listen as a sentence with what to do.
pub(crate) fn in_words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        format!("the address is in use by another program; choose another port ({error})")
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        format!("the address is not one of this host; `ip address` lists them ({error})")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE ({error})")
    } else {
        error.to_string()
    }
}

/// An address prefix as `ADDRESS/BITS`.
pub(crate) fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong =
        || format!("{text:?} is not an address prefix: write ADDRESS/BITS, as in 10.1.0.0/16");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    if bits <= bits_max { Ok((address, bits)) } else { Err(wrong()) }
}

/// A local address can only be delivered to if it is one host's and has a port.
fn check_deliver(address: SocketAddr) -> Result<(), String> {
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!(
            "{address} is nowhere to deliver to: an address and a port are needed"
        ));
    }
    Ok(())
}

fn needs_from(service: &str, address: SocketAddr) -> String {
    format!(
        "service {service}: {address} is not a loopback address, and the service has no `from` that says who may send there"
    )
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn allowed(from: Option<(IpAddr, u8)>) -> AllowedFrom {
    from.map_or(AllowedFrom::Loopback, |(address, bits)| AllowedFrom::Prefix(address, bits))
}

/// A free port from which `address` can be reached.
fn beside(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(v6) if v6.ip().is_loopback() => (Ipv6Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => unspecified(address),
    }
}

fn unspecified(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ServiceName;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    fn service(kind: ServiceAddress, from: Option<&str>) -> Service {
        let from = from.map(|text| parse_prefix(text).expect(text));
        let name = ServiceName::new("camera").expect("a name");
        Service { name, kind, from, shape: true, plain: true }
    }

    #[test]
    fn a19_the_opener_gets_a_loopback_port_that_answers_its_last_sender() {
        let plan = EndPlan::of_opener(&OpenerAddresses::default()).expect("a plan");
        assert_eq!(plan.bind, address("127.0.0.1:0"));
        assert_eq!(
            (plan.from.clone(), plan.deliver.clone(), plan.shape),
            (AllowedFrom::Loopback, Deliver::LastSender, false)
        );
        let shaped = OpenerAddresses { shape: true, ..Default::default() };
        assert_eq!(EndPlan::of_opener(&shaped), Ok(EndPlan { shape: true, ..plan.clone() }));
        let (listen, deliver) = plan.bind().expect("bound").addresses();
        assert!(listen.expect("an address").ip().is_loopback());
        assert_eq!(deliver, None);
    }

    #[test]
    fn a_local_address_beyond_loopback_needs_a_prefix() {
        let mut open =
            OpenerAddresses { listen: Some(address("0.0.0.0:5000")), ..Default::default() };
        let refused = EndPlan::of_opener(&open).expect_err("refused");
        assert!(refused.contains("--from") && refused.contains("0.0.0.0:5000"), "{refused}");
        open.from = Some(parse_prefix("198.18.0.0/15").expect("a prefix"));
        assert!(EndPlan::of_opener(&open).is_ok());
        let far = ServiceAddress::Deliver(address("198.18.0.1:9"));
        assert!(EndPlan::of_service(&service(far.clone(), None), None).is_err());
        assert!(EndPlan::of_service(&service(far, Some("198.18.0.0/15")), None).is_ok());
        let open = ServiceAddress::Listen(address("[::]:9"));
        assert!(EndPlan::of_service(&service(open, None), None).is_err());
    }

    #[test]
    fn a_service_answers_only_its_own_program() {
        let program = address("[::1]:5004");
        let plan = EndPlan::of_service(&service(ServiceAddress::Deliver(program), None), None);
        let plan = plan.expect("a plan");
        assert!(plan.shape, "as its service says");
        assert_eq!(plan.bind, address("[::1]:0"));
        assert_eq!(plan.from, AllowedFrom::Only(program));
        assert_eq!(plan.deliver, Deliver::To(program));
    }

    #[test]
    fn a_receive_service_needs_a_receiver() {
        let receive = service(ServiceAddress::Receive, None);
        assert!(EndPlan::of_service(&receive, None).is_err());
        let plan = EndPlan::of_service(&receive, Some(address("127.0.0.1:7"))).expect("a plan");
        assert_eq!(plan.deliver, Deliver::Framed(address("127.0.0.1:7")));
    }

    #[test]
    fn an_address_in_use_or_of_another_host_is_said_in_words() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let mut open = OpenerAddresses { listen: taken.local_addr().ok(), ..Default::default() };
        let text = EndPlan::of_opener(&open).expect("a plan").bind().expect_err("in use");
        assert!(text.contains("in use"), "{text}");
        open.listen = Some(address("192.0.2.1:5000"));
        open.from = Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
        let text = EndPlan::of_opener(&open).expect("a plan").bind().expect_err("not local");
        assert!(text.contains("not one of this host"), "{text}");
    }

    #[test]
    fn a_prefix_that_is_none_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
        assert_eq!(parse_prefix("10.0.0.0/8"), Ok(([10, 0, 0, 0].into(), 8)));
    }
}
