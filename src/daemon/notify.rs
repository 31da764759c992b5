//! Tells the service manager (systemd, `Type=notify`) what the daemon is about: ready, reloading, leaving,
//! alive, and a line of status; as sd_notify(3) describes it.
//!
//! An extension of [`Control`]: signs of life come from the control loop itself, so a loop that hangs is
//! noticed. Without `NOTIFY_SOCKET` in the environment nothing is said. Never waits: what the manager has
//! no room for is said again with the next sign of life.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::daemon::control::Control;
use crate::limits;
use crate::net::sched;
use crate::proto::view::LinkState;
use crate::types::Time;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// A sign of life is wanted, and not only a status.
    watched: bool,
    /// Between two looks at what there is to say.
    every: Duration,
    next: Option<Time>,
    /// What was said last of the state of this peer.
    status: String,
    unsent: String,
}

impl Manager {
    /// As the environment of this process has it.
    pub(crate) fn of_environment() -> Self {
        let variable = |name| std::env::var_os(name);
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let Some(name) = variable("NOTIFY_SOCKET") else { return Self::default() };
        // The watchdog of another process whose environment was inherited is none of ours.
        let mine = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&bound| mine && bound > 0);
        match open(&name) {
            Ok(socket) => Self::new(socket, watchdog.map(Duration::from_micros)),
            Err(error) => {
                tracing::warn!(?name, %error, "cannot talk to the service manager");
                Self::default()
            }
        }
    }

    fn new(socket: (UnixDatagram, SocketAddr), watchdog: Option<Duration>) -> Self {
        // Half of the bound, as sd_watchdog_enabled(3) advises.
        let half = watchdog.map(|bound| bound / 2);
        let every = half.map_or(limits::STATUS_EVERY, |half| half.min(limits::STATUS_EVERY));
        let (watched, next) = (watchdog.is_some(), Some(Time::default()));
        Self { socket: Some(socket), watched, every, next, ..Self::default() }
    }

    /// When the loop has to come by.
    pub(super) fn due(&self) -> Option<Time> {
        self.next
    }

    pub(super) fn ready(&mut self) {
        self.say("READY=1\n");
    }

    /// The configuration is being read; [`Self::ready`] follows whatever comes of it.
    pub(super) fn reloading(&mut self) {
        let now = sched::monotonic_time().as_micros();
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now}\n"));
    }

    /// Leaving has begun and may take so long, whatever the manager's own bound is.
    pub(super) fn stopping(&mut self, at_most: Duration) {
        self.say(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\n", at_most.as_micros()));
    }

    /// A sign of life, and the state of this peer where it has changed.
    fn alive(&mut self, now: Time, status: String) {
        let mut lines = String::new();
        if self.watched {
            lines.push_str("WATCHDOG=1\n");
        }
        if status != self.status {
            lines.push_str(&format!("STATUS={status}\n"));
            self.status = status;
        }
        self.say(&lines);
        self.next = Some(now + self.every);
    }

    fn say(&mut self, lines: &str) {
        let Some((socket, address)) = &self.socket else { return };
        self.unsent.push_str(lines);
        if self.unsent.is_empty() {
            return;
        }
        match socket.send_to_addr(self.unsent.as_bytes(), address) {
            Ok(_) => self.unsent.clear(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Only what is new counts: a manager that does not read has no use for all of it.
                if self.unsent.len() > limits::NOTIFICATION_BYTES_MAX {
                    self.unsent = lines.to_owned();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the service manager does not listen");
                self.unsent.clear();
            }
        }
    }
}

impl Control {
    /// At the end of every turn of the loop: says what is due.
    pub(super) fn tell_manager(&mut self) {
        let now = self.now();
        if self.manager.due().is_some_and(|due| due <= now) {
            let status = self.in_one_line();
            self.manager.alive(now, status);
        }
    }

    fn in_one_line(&self) -> String {
        let (links, peers) = (self.node.links(), self.node.peers().len());
        let up = links.iter().filter(|link| link.state == LinkState::Up).count();
        let (links, channels) = (links.len(), self.node.channel_count());
        format!("{up} of {links} links up, {peers} peers, {channels} channels")
    }
}

/// `/path` or, with an `@`, a name without a file.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str, watchdog: Option<Duration>) -> (UnixDatagram, Manager) {
        let name = format!("spanway-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let inbox = UnixDatagram::bind_addr(&address).expect("nobody else has it");
        inbox.set_nonblocking(true).expect("an option");
        let socket = open(OsStr::new(&format!("@{name}"))).expect("a socket");
        (inbox, Manager::new(socket, watchdog))
    }

    fn heard(inbox: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = inbox.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn a_sign_of_life_comes_twice_within_the_bound_and_a_status_only_when_it_changed() {
        let bound = Duration::from_millis(800);
        let (inbox, mut manager) = manager("life", Some(bound));
        assert_eq!(manager.due(), Some(Time::default()));
        manager.alive(Time(100), "one".to_owned());
        assert_eq!(heard(&inbox).as_deref(), Some("WATCHDOG=1\nSTATUS=one\n"));
        assert_eq!(manager.due(), Some(Time(100) + bound / 2));
        manager.alive(Time(200), "one".to_owned());
        assert_eq!(heard(&inbox).as_deref(), Some("WATCHDOG=1\n"));
    }

    #[test]
    fn who_is_not_watched_sends_no_sign_of_life() {
        let (inbox, mut manager) = manager("calm", None);
        manager.alive(Time(0), "one".to_owned());
        manager.alive(Time(1), "one".to_owned());
        assert_eq!(heard(&inbox).as_deref(), Some("STATUS=one\n"));
        assert_eq!(heard(&inbox), None);
    }

    #[test]
    fn what_the_manager_has_no_room_for_is_said_later_and_nothing_waits() {
        let (inbox, mut manager) = manager("full", None);
        while manager.unsent.is_empty() {
            manager.reloading();
        }
        manager.ready();
        let mut last = String::new();
        while let Some(lines) = heard(&inbox) {
            last = lines;
        }
        assert!(!last.contains("READY"), "{last}");
        manager.alive(Time(0), "one".to_owned());
        let rest = heard(&inbox).expect("what there was no room for");
        assert!(rest.ends_with("READY=1\nSTATUS=one\n"), "{rest}");
    }
}
