//! Carries out what the node wants: messages to connections, routes to the engine, sockets of channel
//! ends, answers to local clients.
//!
//! An extension of [`Control`]: the loop is in `control`, the doing is here. What others will notice is
//! a [`Later`] and waits behind engine commands; what the engine is told goes at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::api::dto::{EventLine, FrameTotals, Received, Story};
use crate::config::ServiceAddress;
use crate::daemon::connection::{Connection, SendQueue};
use crate::daemon::control::{Control, Slot};
use crate::daemon::ends::{EndPlan, NewEnd, other_files};
use crate::daemon::excess::Meter;
use crate::daemon::totals::Totals;
use crate::daemon::views;
use crate::engine::seal::Seal;
use crate::engine::{Command, EndSpec, EntrySpec, LinkSpec, Target};
use crate::proto::{self, Action, Answer, DataLink, Entry, Event, Input, Rejection, Sealing, Side};
use crate::stats::{Books, ChannelStats, DropReason};
use crate::types::{
    Bandwidth, ChannelId, Label, LinkId, PeerName, Reject, RequestId, ServiceName, WorkerId,
};

/// What others notice, in the order in which they shall.
pub(crate) enum Later {
    Send {
        link: LinkId,
        number: u64,
        queue: SendQueue,
        message: Bytes,
    },
    Close(Connection),
    Answer {
        id: RequestId,
        answer: Answer,
    },
    Event(Event),
    /// The watch of this client counts from now on.
    Watching(u64),
}

/// Channels that have an end or a label here.
#[derive(Default)]
pub(crate) struct Channels {
    here: BTreeMap<ChannelId, ChannelHere>,
    /// Each with the worker that has it now.
    labels: BTreeMap<Label, (ChannelId, WorkerId)>,
    /// The end of the channel that is being asked for: made before the node is, so that an address
    /// that cannot be used is told as what it is.
    pub(crate) opening: Option<NewEnd>,
    /// Ends that have a socket.
    sockets: u64,
    /// Of those that ended.
    totals: Totals,
}

#[derive(Default)]
pub(crate) struct ChannelHere {
    /// At an end all that enters and leaves there; at a relay the frames from who asked for the channel.
    pub(crate) stats: Arc<ChannelStats>,
    /// At a relay: the frames from the service.
    pub(crate) back: Option<Arc<ChannelStats>>,
    pub(crate) end: Option<End>,
    labels: usize,
}

impl ChannelHere {
    pub(crate) fn all_stats(&self) -> impl Iterator<Item = &Arc<ChannelStats>> {
        std::iter::once(&self.stats).chain(&self.back)
    }

    /// Both directions together.
    pub(crate) fn books(&self) -> Books {
        let mut books = self.stats.books();
        self.back.iter().for_each(|back| books.add(back.books()));
        books
    }
}

/// The local end of a channel.
pub(crate) struct End {
    worker: WorkerId,
    /// None: inside the program.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) deliver: Option<SocketAddr>,
    pub(crate) shape: bool,
    /// What was promised to who sends here, once there was a path.
    pub(super) rate: Option<Bandwidth>,
    pub(crate) meter: Meter,
    /// How its channel got to its path, if it was asked for here.
    pub(super) story: Option<Box<Story>>,
}

impl Channels {
    pub(crate) fn of(&self, channel: &ChannelId) -> Option<&ChannelHere> {
        self.here.get(channel)
    }

    /// By id.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ChannelId, &ChannelHere)> {
        self.here.iter()
    }

    /// Those with an end here.
    pub(crate) fn ends(&mut self) -> impl Iterator<Item = (&ChannelId, &mut End, &ChannelStats)> {
        let ends = self.here.iter_mut();
        ends.filter_map(|(id, here)| Some((id, here.end.as_mut()?, &*here.stats)))
    }

    /// Where frames of this direction are counted.
    fn stats(&mut self, channel: &ChannelId, back: bool) -> Arc<ChannelStats> {
        let here = self.here.entry(channel.clone()).or_default();
        match back && here.end.is_none() {
            true => Arc::clone(here.back.get_or_insert_default()),
            false => Arc::clone(&here.stats),
        }
    }

    fn add_label(&mut self, label: Label, channel: &ChannelId) {
        let labelled = (channel.clone(), label.worker());
        if self.labels.insert(label, labelled).is_none() {
            self.here.entry(channel.clone()).or_default().labels += 1;
        }
    }

    /// The worker that had it.
    fn remove_label(&mut self, label: Label) -> Option<WorkerId> {
        let (channel, worker) = self.labels.remove(&label)?;
        if let Some(here) = self.here.get_mut(&channel) {
            here.labels -= 1;
        }
        self.forget_unused(&channel);
        Some(worker)
    }

    /// These labels and the end of the channel, if it has one here, belong to `worker` from now on.
    fn moved(&mut self, channel: &ChannelId, labels: &[Label], worker: WorkerId) {
        for label in labels {
            if let Some(labelled) = self.labels.get_mut(label) {
                labelled.1 = worker;
            }
        }
        if let Some(end) = self.here.get_mut(channel).and_then(|here| here.end.as_mut()) {
            end.worker = worker;
        }
    }

    /// Frames of all channels there were; workers dropped `strays` besides.
    pub(super) fn totals(
        &mut self,
        strays: impl Iterator<Item = (DropReason, u64)>,
    ) -> FrameTotals {
        self.totals.of(self.here.values().flat_map(ChannelHere::all_stats), strays)
    }

    /// How a channel that was asked for here got to its path.
    pub(super) fn story(&mut self, channel: &ChannelId) -> Option<&mut Story> {
        let end = self.here.get_mut(channel)?.end.as_mut()?;
        Some(&mut **end.story.get_or_insert_default())
    }

    fn moves(&mut self, channel: &ChannelId, why: &str) {
        if let Some(story) = self.story(channel) {
            story.moves += 1;
            story.moved_because = Some(why.to_owned());
        }
    }

    fn remove_end(&mut self, channel: &ChannelId) -> Option<End> {
        let end = self.here.get_mut(channel)?.end.take();
        self.sockets -= u64::from(end.as_ref().is_some_and(|end| end.listen.is_some()));
        self.forget_unused(channel);
        end
    }

    fn forget_unused(&mut self, channel: &ChannelId) {
        let unused = |here: &ChannelHere| here.labels == 0 && here.end.is_none();
        if self.here.get(channel).is_some_and(unused)
            && let Some(here) = self.here.remove(channel)
        {
            self.totals.leaves(std::iter::once(here.stats).chain(here.back));
        }
    }
}

impl Control {
    /// Carries out a batch; what it leads to here waits in `inputs`.
    pub(super) fn apply(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Send { link, message } => self.apply_send(link, &message),
                Action::CloseLink { link, why } => {
                    tracing::info!(link = link.0, why, "link closed");
                    self.close_connection(link);
                }
                Action::LinkUp { link, data } => self.apply_link_up(link, data),
                Action::LinkDown { link } => {
                    if let Some(slot) = self.links.get_mut(&link) {
                        slot.spec = None;
                        slot.probes = None;
                    }
                    // A peer that leaves sends heartbeats until its last words were read: who misses
                    // them first would take all its channels for broken.
                    if !self.node.is_gone() {
                        self.broadcast(|| Command::RemoveLink(link));
                    }
                }
                Action::OpenEnd { channel, side, service, worker, sealing } => {
                    let result = self.open_sealed(&channel, side, &service, worker, sealing);
                    self.inputs.push_back(Input::EndOpened { channel, result });
                }
                Action::OfferSeal { channel, key, terms } => {
                    let result = self.seals.offer(&channel, &key, &terms);
                    self.inputs.push_back(Input::SealOffered { channel, result });
                }
                Action::SealEnd { channel, answer } => self.seal_end(channel, &answer),
                Action::CountProbes { link, on } => self.count_probes(link, on),
                Action::SendTrain { link, train, header_bytes } => {
                    self.send_train(link, train, header_bytes);
                }
                Action::CountTrain { link, number } => self.count_train(link, number),
                Action::ReadHop { question } => self.read_hop(question),
                Action::CloseEnd { channel } => {
                    self.seals.forget(&channel);
                    if let Some(end) = self.channels.remove_end(&channel) {
                        self.command(end.worker, Command::RemoveEnd(channel));
                    }
                }
                Action::SetEntry { channel, to } => self.apply_entry(channel, to),
                Action::AddLabel { channel, label, from, to, rate, hop, back } => {
                    self.channels.add_label(label, &channel);
                    let stats = self.channels.stats(&channel, back);
                    let to = target(to, channel);
                    let command = Command::AddLabel { label, from, to, rate, hop, stats };
                    self.command(label.worker(), command);
                }
                Action::RemoveLabel { label } => {
                    let worker = self.channels.remove_label(label);
                    match worker.filter(|&worker| worker != label.worker()) {
                        None => self.command(label.worker(), Command::RemoveLabel(label)),
                        // Workers it was moved away from pass its frames on: they forget it, too.
                        Some(_) => self.broadcast(|| Command::RemoveLabel(label)),
                    }
                }
                Action::MoveChannel { channel, labels, end, from, to } => {
                    tracing::info!(%channel, from = from.0, to = to.0, "moved between workers");
                    self.channels.moved(&channel, &labels, to);
                    self.command(from, Command::MoveChannel { channel, labels, end, to });
                }
                Action::Answer { id, answer } => self.later(Later::Answer { id, answer }),
                Action::Event(event) => self.later(Later::Event(event)),
            }
        }
    }

    /// At once if nothing waits for the engine, behind it otherwise.
    pub(super) fn later(&mut self, later: Later) {
        if self.unsettled || !self.later.is_empty() {
            self.later.push_back(later);
        } else {
            self.release(later);
        }
    }

    pub(super) fn release(&mut self, later: Later) {
        match later {
            Later::Send { link, number, queue, message } => {
                let current = self.links.get(&link).and_then(|slot| slot.connection.as_ref());
                let current = current.is_some_and(|connection| connection.number == number);
                if let (Err(full), true) = (queue.send(message), current) {
                    self.close_connection(link);
                    self.inputs.push_back(Input::Disconnected { link, why: full.to_string() });
                }
            }
            Later::Close(connection) => self.closes(connection),
            Later::Answer { id, answer } => self.answer(id, answer),
            Later::Event(event) => self.tell_event(&event),
            Later::Watching(client) => self.tell_watching(client),
        }
    }

    fn apply_send(&mut self, link: LinkId, message: &crate::wire::control::Message) {
        let connection = self.links.get(&link).and_then(|slot| slot.connection.as_ref());
        let Some(connection) = connection else { return };
        let (number, queue) = (connection.number, connection.queue());
        self.counters.sent(message);
        self.later(Later::Send { link, number, queue, message: message.emit() });
    }

    fn apply_link_up(&mut self, link: LinkId, data: DataLink) {
        let now = self.now();
        let connection = self.links.get(&link).and_then(|slot| slot.connection.as_ref());
        let Some(connection) = connection else { return };
        let (remote, tags) = (connection.remote, data.hop_tag.then(|| connection.hop_keys.clone()));
        let reach = self.config.reach();
        // The connection shows the host; the port is the neighbour's word.
        let said = SocketAddr::new(remote.ip(), data.port);
        if let Err(refused) = reach.follow(remote, said) {
            // The actions behind this one are carried out first.
            let why = format!("the neighbour wants frames at {refused}");
            if let Some(slot) = self.links.get(&link) {
                self.neighbours.contacts.failed(&slot.peer, &why);
            }
            self.close_connection(link);
            return self.inputs.push_back(Input::Disconnected { link, why });
        }
        let spec = LinkSpec {
            link,
            address: self.data_address(remote, data.port),
            workers: data.workers,
            send_label: data.send_label,
            send_key: data.send_key,
            receive_label: data.receive_label,
            receive_key: data.receive_key,
            tags,
            reach,
            interval: self.config.control.heartbeat,
            missed_max: self.config.control.heartbeats_missed,
            pulse: Arc::default(),
        };
        if let Some(slot) = self.links.get_mut(&link) {
            // A neighbour's control port is the port of its first worker.
            self.neighbours.learn(&slot.peer, said);
            self.neighbours.contacts.linked(&slot.peer, &spec.pulse);
            slot.spec = Some((spec.clone(), now));
        }
        let spec = Arc::new(spec);
        self.broadcast(|| Command::SetLink(Arc::clone(&spec)));
    }

    fn apply_entry(&mut self, channel: ChannelId, entry: Option<Entry>) {
        let end = self.channels.here.get_mut(&channel).and_then(|here| here.end.as_mut());
        let Some(end) = end else { return };
        let worker = end.worker;
        if let Some(entry) = &entry {
            end.rate = Some(entry.rate);
        }
        let to = entry.map(|entry| EntrySpec {
            to: target(entry.to, channel.clone()),
            rate: entry.rate,
            max_payload: entry.max_payload,
        });
        self.command(worker, Command::SetEntry { channel, to });
    }

    /// The end, and the answer to the offer that came with it.
    fn open_sealed(
        &mut self,
        channel: &ChannelId,
        side: Side,
        service: &ServiceName,
        worker: WorkerId,
        sealing: Sealing,
    ) -> Result<Option<Bytes>, Rejection> {
        let (seal, answer) = match sealing {
            Sealing::Plain => (Seal::Plain, None),
            Sealing::Awaited => (Seal::Awaited, None),
            Sealing::Answer { key, terms, offer } => {
                let answered = self.seals.answer(&key, &terms, &offer);
                let wrong = |why| Rejection::new(Reject::NotAllowed, why);
                let (keys, answer) = answered.map_err(wrong)?;
                (Seal::with(&keys), Some(answer))
            }
        };
        let opened = self.open_end(channel, side, service, worker, seal);
        opened.map(|()| answer).map_err(|why| Rejection::new(Reject::Busy, why))
    }

    /// The far end answered: what enters and leaves here is sealed from now on.
    fn seal_end(&mut self, channel: ChannelId, answer: &[u8]) {
        let keys = self.seals.finish(&channel, answer);
        let worker = self.channels.of(&channel).and_then(|here| here.end.as_ref());
        let result = match (keys, worker.map(|end| end.worker)) {
            (Ok(keys), Some(worker)) => {
                let (channel, seal) = (channel.clone(), Seal::with(&keys));
                self.command(worker, Command::SetSeal { channel, seal });
                Ok(())
            }
            (Ok(_), None) => Err("its end is closed".to_owned()),
            (Err(why), _) => Err(why),
        };
        self.inputs.push_back(Input::EndSealed { channel, result });
    }

    fn open_end(
        &mut self,
        channel: &ChannelId,
        side: Side,
        service: &ServiceName,
        worker: WorkerId,
        seal: Seal,
    ) -> Result<(), String> {
        let new = match side {
            Side::Source => self.channels.opening.take().ok_or("nobody asked for this channel")?,
            Side::Service if self.engine.own_ends().is_some() => NewEnd::Own,
            Side::Service => {
                self.room_for_end()?;
                self.plan_of(service)?.bind()?
            }
        };
        let stats = self.channels.stats(channel, false);
        let (listen, deliver) = new.addresses();
        let shape = matches!(&new, NewEnd::Socket { plan, .. } if plan.shape);
        let (rate, meter) = (None, Meter::new(self.now()));
        let here = self.channels.here.entry(channel.clone()).or_default();
        here.end = Some(End { worker, listen, deliver, shape, rate, meter, story: None });
        self.channels.sockets += u64::from(listen.is_some());
        self.look_at_entries_soon();
        self.unsettled = true;
        match (new, self.engine.own_ends()) {
            (NewEnd::Socket { plan: EndPlan { from, deliver, shape, .. }, socket, .. }, _) => {
                // Nobody can tell yet that the program behind it takes super-buffers.
                let (channel, gso) = (channel.clone(), false);
                let spec = EndSpec { channel, socket, from, deliver, gso, shape, seal, stats };
                self.engine.send(worker, Command::AddEnd(spec));
            }
            (NewEnd::Own, Some(ends)) => ends.add_end(worker, channel, seal, &stats),
            (NewEnd::Own, None) => unreachable!("a data plane has ends of its own or never"),
        }
        if side == Side::Service {
            self.tell_receiver_open(service, channel);
        }
        Ok(())
    }

    /// Every end has a socket of its own, and the system a limit.
    pub(super) fn room_for_end(&self) -> Result<(), String> {
        let (files, ends) = (self.facts.files, self.channels.sockets);
        let (workers, links) = (self.engine.workers().len(), self.config.links.len());
        let web = self.config.api.is_some();
        if ends + other_files(workers, links, web) < files {
            return Ok(());
        }
        Err(format!(
            "{ends} channels end here and this process may have {files} open files, which leaves room for no \
             more: raise `ulimit -n`, or LimitNOFILE= of its service, and start it again"
        ))
    }

    fn plan_of(&self, name: &ServiceName) -> Result<EndPlan, String> {
        let service = self.config.services.iter().find(|service| service.name == *name);
        let service = service.ok_or_else(|| format!("there is no service {name} here any more"))?;
        let receiver = match service.kind {
            ServiceAddress::Receive => self.receivers.get(name).map(|receiver| receiver.address),
            ServiceAddress::Deliver(_) | ServiceAddress::Listen(_) => None,
        };
        EndPlan::of_service(service, receiver)
    }

    fn tell_receiver_open(&mut self, service: &ServiceName, channel: &ChannelId) {
        if let Some(receiver) = self.receivers.get_mut(service) {
            receiver.channel = Some(channel.clone());
            let peer = channel.source.clone();
            receiver.answers.ok(&Received::Open { channel: channel.to_string(), peer });
        }
    }

    /// To the log, to those who watch, and to the `recv` whose channel it is.
    fn tell_event(&mut self, event: &Event) {
        views::log_event(event);
        self.counters.event(event);
        if let (Event::StreamFinished { channel, frames }, Some(ends)) =
            (event, self.engine.own_ends())
        {
            ends.finished(channel, *frames);
        }
        if !self.watchers.is_empty() {
            self.tell_watchers(&self.event_line(event));
        }
        if let Event::ChannelMoving { channel, why } = event {
            self.channels.moves(channel, why);
        }
        if let Event::ChannelQueued { channel, .. } = event {
            self.tell_standing(channel);
        }
        let (channel, line) = match event {
            Event::StreamFinished { channel, frames } => {
                (channel, Received::Finished { frames: *frames })
            }
            Event::ChannelClosed { channel, why, .. } => {
                self.kept.ended(self.now(), channel, why);
                (channel, Received::Closed { why: why.clone() })
            }
            Event::LinkUp { .. }
            | Event::LinkDown { .. }
            | Event::SessionStarted { .. }
            | Event::SessionAdopted { .. }
            | Event::TreeCommitted { .. }
            | Event::ChannelOpen { .. }
            | Event::ChannelQueued { .. }
            | Event::ChannelMoving { .. }
            | Event::ChannelTrying { .. }
            | Event::ChannelMoved { .. }
            | Event::ChannelProtected { .. }
            | Event::Unproven { .. }
            | Event::Ignored { .. } => return,
        };
        let receiver = self.receivers.values().find(|r| r.channel.as_ref() == Some(channel));
        if let Some(receiver) = receiver {
            receiver.answers.ok(&line);
        }
    }

    /// Clients of `events`.
    pub(super) fn tell_watchers(&self, line: &EventLine) {
        self.watchers.values().for_each(|answers| answers.ok(line));
    }

    // --- Addresses ---

    /// Address of a neighbour by its name.
    pub(super) fn neighbour_address(&self, peer: &PeerName) -> Option<IpAddr> {
        let slot: &Slot = self.links.values().find(|slot| slot.peer == *peer)?;
        slot.connection.as_ref().map(|connection| connection.remote.ip())
    }

    // --- The engine ---

    pub(super) fn command(&mut self, worker: WorkerId, command: Command) {
        self.unsettled = true;
        self.engine.send(worker, command);
    }

    pub(super) fn broadcast(&mut self, command: impl Fn() -> Command) {
        self.unsettled = true;
        self.engine.broadcast(&command);
    }
}

fn target(to: proto::Target, channel: ChannelId) -> Target {
    match to {
        proto::Target::Hop { link, label, port } => Target::Hop { link, label, port },
        proto::Target::Local => Target::Local(channel),
    }
}
