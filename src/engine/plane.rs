//! What the daemon asks of a data plane: commands in, events out, and who makes the ends of channels.
//!
//! [`Engine`] is the one for programs that speak UDP to a local socket. A program that *is* a peer
//! brings its own: it exchanges heartbeats and frames with the neighbours itself, and its channels end
//! inside of it, so no socket stands between ([`OwnEnds`]). The control half cannot tell them apart.
//!
//! Assumes one control thread. What is said here of a data plane is what `daemon::control` relies on; how
//! frames are moved is no part of it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::handle::{Engine, WorkerInfo};
use super::seal::Seal;
use super::{Command, Event};
use crate::stats::ChannelStats;
use crate::types::{ChannelId, WorkerId};

/// A running data plane.
///
/// Commands to one worker are applied in the order they were sent. A message that tells a neighbour to
/// send frames leaves only when [`DataPlane::applied`] says that all of them were.
pub trait DataPlane {
    /// Never waits. A worker that does not exist is the caller's mistake.
    fn send(&mut self, worker: WorkerId, command: Command);

    /// The same command to every worker.
    fn broadcast(&mut self, make: &dyn Fn() -> Command);

    /// Whether everything sent so far has been applied. Asked again until it is.
    fn applied(&mut self) -> bool;

    /// Everything that happened since the last call, appended to `out`.
    fn poll_events(&mut self, out: &mut Vec<Event>);

    /// Readable when there are events; [`DataPlane::poll_events`] makes it unreadable again.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// One for each port of the configuration, in their order.
    fn workers(&self) -> &[WorkerInfo];

    /// What moves the frames, and why that.
    fn backend(&self) -> (&'static str, &str);

    /// Its ports are free when this returns.
    fn stop(&mut self);

    /// `None`: an end is a UDP socket, which comes with [`Command::AddEnd`].
    fn own_ends(&mut self) -> Option<&mut dyn OwnEnds> {
        None
    }
}

/// Ends inside the program: it takes every channel to each of its services, and no
/// [`Command::AddEnd`] or [`Command::SetDeliver`] comes.
pub trait OwnEnds {
    /// A channel ends at this worker, until [`Command::RemoveEnd`]. In order with the commands.
    fn add_end(
        &mut self,
        worker: WorkerId,
        channel: &ChannelId,
        seal: Seal,
        stats: &Arc<ChannelStats>,
    );

    /// The far end said that its stream ended after this many frames.
    fn finished(&mut self, channel: &ChannelId, frames: u64);
}

impl DataPlane for Engine {
    fn send(&mut self, worker: WorkerId, command: Command) {
        self.send(worker, command);
    }

    fn broadcast(&mut self, make: &dyn Fn() -> Command) {
        self.broadcast(make);
    }

    fn applied(&mut self) -> bool {
        self.applied()
    }

    fn poll_events(&mut self, out: &mut Vec<Event>) {
        self.poll_events(out);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event_fd()
    }

    fn workers(&self) -> &[WorkerInfo] {
        self.workers()
    }

    fn backend(&self) -> (&'static str, &str) {
        self.backend()
    }

    fn stop(&mut self) {
        self.stop();
    }
}
