//! What local clients ask, and how the node's answers become theirs.
//!
//! An extension of [`Control`]. Questions about this daemon are answered at once; those that involve
//! other peers become a request of the node and wait in `asking` for its one answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::api::dto::{self, ControlStatus, FailureKind, Received, StatusReply, WorkerStatus};
use crate::api::server::{Answers, Ask, What};
use crate::config::ServiceAddress;
use crate::daemon::control::{Control, Stage};
use crate::daemon::kept::Then;
use crate::daemon::lane;
use crate::daemon::opens::Opener;
use crate::daemon::rules;
use crate::daemon::views::{self, Here};
use crate::limits;
use crate::proto::view::LinkState;
use crate::proto::{Answer, Choice, FitRequest, Input, MeasureRequest, Rejection, Request};
use crate::sim::check;
use crate::types::{Bandwidth, ChannelId, PeerName, Reject, RequestId, ServiceName, Way};

/// A client that waits for the node's answer.
pub(crate) enum Asking {
    Open(Box<Opener>),
    /// A channel that is kept: nobody waits for it.
    Kept,
    /// `close` of one.
    CloseKept(Answers),
    Fit(Answers),
    Course(Answers),
    Survey(Answers, ChannelId),
    /// `close`, `finish`, `services`, `verify`, `recompute`.
    Plain(Answers),
    /// A signal has nobody to tell.
    Leave(Option<Answers>),
}

/// A client of `receive`.
pub(crate) struct Receiver {
    client: u64,
    pub(super) answers: Answers,
    pub(super) address: SocketAddr,
    pub(super) channel: Option<ChannelId>,
}

impl Asking {
    /// The daemon ends before the answer.
    pub(super) fn stopped(&self) {
        let (kind, message) = (FailureKind::Failed, "the daemon stops".to_owned());
        let failure = dto::Failure { kind, message, reason: Some(Reject::ShuttingDown) };
        match self {
            Self::Open(opener) => opener.answers.refused(failure),
            Self::Fit(answers)
            | Self::Course(answers)
            | Self::Survey(answers, _)
            | Self::Plain(answers)
            | Self::CloseKept(answers)
            | Self::Leave(Some(answers)) => answers.refused(failure),
            Self::Leave(None) | Self::Kept => {}
        }
    }
}

impl Control {
    pub(super) fn asked(&mut self, ask: Ask) {
        let Ask { client, what } = ask;
        match what {
            What::Gone => self.gone(client),
            What::Request(request, answers) => self.asked_for(client, request, answers),
        }
    }

    fn asked_for(&mut self, client: u64, request: dto::Request, answers: Answers) {
        match request {
            dto::Request::Status => answers.ok(&self.status()),
            dto::Request::Peers => answers.ok(&rows(self.node.peers(), views::peer_row)),
            dto::Request::Links => answers.ok(&self.link_rows()),
            dto::Request::Tree => answers.ok(&views::tree_reply(self.node.tree())),
            dto::Request::Graph => {
                answers.ok(&views::graph_reply(self.node.graph_view(self.now())));
            }
            dto::Request::Channels => answers.ok(&self.channel_rows()),
            dto::Request::Queue => {
                answers.ok(&rows(self.node.waiting(self.now()), views::queue_row));
            }
            dto::Request::Latency { channel, watch } => self.latency(&channel, watch, &answers),
            dto::Request::Watch { channel, seconds } => {
                self.watch(client, &channel, seconds, answers);
            }
            dto::Request::Survey { channel } => self.survey(&channel, answers),
            dto::Request::RelayTimes => answers.ok(&self.relay_times()),
            dto::Request::Ledger => answers.ok(&self.ledger()),
            dto::Request::Statistics => answers.ok(&self.statistics()),
            dto::Request::Verify => {
                self.ask(Asking::Plain(answers), Request::CollectLinks { course: false });
            }
            dto::Request::Computation { all } => self.course(all, answers),
            dto::Request::Services { peer } => {
                self.ask(Asking::Plain(answers), Request::Services { peer });
            }
            dto::Request::Measure { peer, max_bps, duration_ms } => {
                self.measure(peer, max_bps, duration_ms, answers);
            }
            dto::Request::Recompute => self.ask(Asking::Plain(answers), Request::Recompute),
            dto::Request::Open(open) | dto::Request::OpenTold(open) => {
                self.open(client, open, answers)
            }
            dto::Request::WouldFit(asked) => self.would_fit(asked, answers),
            dto::Request::Close { channel } => self.close(&channel, answers),
            dto::Request::Finish { channel, frames } => match self.channel_of(&channel) {
                Ok(channel) => {
                    self.ask(Asking::Plain(answers), Request::Finish { channel, frames });
                }
                Err(failure) => answers.refused(failure),
            },
            dto::Request::Receive { service, address } => {
                self.receive(client, service, address, answers);
            }
            dto::Request::Events => {
                self.watchers.insert(client, answers);
            }
            dto::Request::Reload => match self.reload() {
                Ok(()) => answers.ok(&()),
                Err(why) => {
                    tracing::error!(why, "reload refused; the old configuration stays");
                    answers.failed(FailureKind::Failed, why);
                }
            },
            dto::Request::AddLink(asked) => tell(&answers, self.add_link(&asked)),
            dto::Request::RemoveLink { peer } => tell(&answers, self.remove_link(&peer)),
            dto::Request::Allow => answers.ok(&rules::allow_reply(self.node.policy())),
            dto::Request::Invite(asked) => tell(&answers, self.invite(&asked)),
            dto::Request::Invitations => answers.ok(&self.invitations()),
            dto::Request::Revoke { id } => tell(&answers, self.revoke(&id)),
            dto::Request::Leave { timeout_ms } => {
                self.leave(Some(answers), Duration::from_millis(timeout_ms));
            }
        }
    }

    pub(super) fn ask(&mut self, asking: Asking, request: Request) {
        let id = self.next_request();
        self.asking.insert(id, asking);
        self.feed(Input::Request { id, request });
    }

    fn measure(&mut self, peer: PeerName, max: Option<Bandwidth>, ms: u64, answers: Answers) {
        match check_measure(max, ms) {
            Ok(duration) => {
                let wanted = MeasureRequest { peer, max, duration };
                self.ask(Asking::Plain(answers), Request::Measure(wanted));
            }
            Err(message) => answers.failed(FailureKind::Usage, message),
        }
    }

    /// The node's one answer to a request.
    pub(super) fn answer(&mut self, id: RequestId, answer: Answer) {
        let Some(asking) = self.asking.remove(&id) else { return };
        if matches!(asking, Asking::Open(_)) {
            self.counters.answered(&answer);
        }
        match (asking, answer) {
            (Asking::Open(opener), Answer::Open(opened)) => self.opened(*opener, opened),
            (Asking::Open(opener), Answer::Rejected(rejection)) => {
                self.tell(*opener, views::rejected_reply(rejection), Ok(false));
            }
            (Asking::Kept, Answer::Open(opened)) => self.kept.opened(id, opened.channel),
            (Asking::Kept, Answer::Rejected(why)) => {
                self.kept.refused(self.now(), id, &why.detail);
            }
            (Asking::Fit(answers), Answer::Fit(fit)) => answers.ok(&views::fit_reply(*fit)),
            (Asking::Fit(answers), Answer::Rejected(rejection)) => {
                match views::never_reply(&rejection) {
                    Some(never) => answers.ok(&never),
                    None => refuse(&answers, &rejection),
                }
            }
            // Whatever the node says, it is gone from the file.
            (Asking::CloseKept(answers), _) => self.save_kept(Then::Closed(answers)),
            (Asking::Course(answers), Answer::Links(collected)) => {
                answers.ok(&views::courses(collected));
            }
            (Asking::Course(answers), Answer::Rejected(rejection)) => refuse(&answers, &rejection),
            (Asking::Survey(answers, channel), Answer::Hops(hops)) => {
                self.surveyed(&channel, hops, &answers);
            }
            (Asking::Survey(answers, _), Answer::Rejected(rejection)) => {
                refuse(&answers, &rejection)
            }
            (Asking::Leave(answers), answer) => {
                if let (Some(answers), Answer::Left) = (answers, answer) {
                    answers.ok(&());
                }
                self.stage = Stage::Ended(Ok(()));
            }
            (Asking::Plain(answers), Answer::Rejected(rejection)) => refuse(&answers, &rejection),
            (Asking::Plain(answers), Answer::Services(services)) => {
                answers.ok(&rows(services, views::service_row));
            }
            (Asking::Plain(answers), Answer::Links(collected)) => {
                answers.ok(&views::verify_reply(check::judge(&collected)));
            }
            (Asking::Plain(answers), Answer::Measured(measured)) => {
                answers.ok(&views::measure_reply(*measured));
            }
            (Asking::Plain(answers), Answer::Recomputing(session)) => {
                answers.ok(&session.to_string());
            }
            (Asking::Plain(answers), Answer::Closed | Answer::Finished | Answer::Left) => {
                answers.ok(&());
            }
            (Asking::Plain(_), Answer::Open(_) | Answer::Fit(_) | Answer::Hops(_))
            | (
                Asking::Open(_)
                | Asking::Kept
                | Asking::Fit(_)
                | Asking::Course(_)
                | Asking::Survey(..),
                _,
            ) => {
                unreachable!("the node answers each request in its own kind")
            }
        }
    }

    // --- Channels ---

    fn would_fit(&mut self, asked: dto::WouldFit, answers: Answers) {
        let dto::WouldFit { peer, bandwidth_bps: rate, bandwidth_back_bps, path, avoid } = asked;
        let checked = check_rates(rate, bandwidth_back_bps);
        if let Err(message) = checked.and_then(|()| self.check_way(&path, &avoid, &peer)) {
            return answers.failed(FailureKind::Usage, message);
        }
        let rate_back = bandwidth_back_bps.unwrap_or_else(|| views::default_rate_back(rate));
        let request = FitRequest { peer, rate, rate_back, choice: choice(path), avoid };
        self.ask(Asking::Fit(answers), Request::WouldFit(request));
    }

    pub(super) fn check_way(
        &self,
        path: &dto::PathChoice,
        avoid: &[PeerName],
        peer: &PeerName,
    ) -> Result<(), String> {
        if avoid.len() > limits::AVOID_MAX {
            let (many, most) = (avoid.len(), limits::AVOID_MAX);
            return Err(format!("{many} peers to avoid are too many: at most {most}"));
        }
        match path {
            dto::PathChoice::Given(path) => check_path(path, &self.config.name, peer),
            dto::PathChoice::Named(_) => Ok(()),
        }
    }

    /// A channel by its id, or by its name if only one that ends here has it.
    pub(super) fn channel_of(&self, text: &str) -> Result<ChannelId, dto::Failure> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let failure = |kind, message| dto::Failure { kind, message, reason: None };
        let mut named = self.node.ends_named(text);
        match (named.pop(), named.is_empty()) {
            (Some(id), true) => Ok(id),
            (Some(id), false) => {
                let many = named.len() + 1;
                let message =
                    format!("{many} channels are named {text} here; take the id, as in {id}");
                Err(failure(FailureKind::Failed, message))
            }
            (None, _) => {
                let message = format!("no channel {text} ends here: `spanway channels` lists them");
                Err(failure(FailureKind::Unknown, message))
            }
        }
    }

    fn channel_rows(&self) -> Vec<dto::ChannelRow> {
        let kept = self.kept.open();
        rows(self.node.channels(), |view| {
            let channel = self.channels.of(&view.id);
            let end = channel.and_then(|channel| channel.end.as_ref());
            let here = Here {
                channel,
                listen: end.and_then(|end| end.listen),
                deliver: end.and_then(|end| end.deliver),
                offered: end.and_then(|end| end.meter.offered()),
                promised: end.and_then(|end| end.rate),
                shape: end.is_some_and(|end| end.shape),
                keep: kept.contains(&view.id),
                neighbour: neighbour_of(&view.path, &self.config.name)
                    .and_then(|peer| self.neighbour_address(peer)),
            };
            views::channel_row(view, &here)
        })
    }

    fn ledger(&self) -> dto::LedgerReply {
        let channels = self.channels.all().map(|(id, here)| views::ledger_row(id, here.books()));
        let workers = self.engine.workers().iter();
        let workers = workers.map(|worker| views::ledger_worker(worker.port, &worker.stats));
        let mut reply = dto::LedgerReply {
            peer: self.config.name.clone(),
            adds_up: false,
            channels: channels.collect(),
            workers: workers.collect(),
        };
        reply.adds_up = reply.channels.iter().all(|row| row.in_flight == 0)
            && reply.workers.iter().all(|worker| worker.in_flight == 0);
        reply
    }

    // --- Receivers and watchers ---

    fn receive(&mut self, client: u64, name: ServiceName, address: SocketAddr, answers: Answers) {
        let refuse = |message: String| answers.failed(FailureKind::Failed, message);
        if self.engine.own_ends().is_some() {
            return refuse(format!("the program that is this peer receives at {name} by itself"));
        }
        let service = self.config.services.iter().find(|service| service.name == name);
        match service.map(|service| &service.kind) {
            None => {
                return refuse(format!(
                    "there is no [service.{name}] in {}",
                    self.config.file.display()
                ));
            }
            Some(ServiceAddress::Deliver(_) | ServiceAddress::Listen(_)) => {
                return refuse(format!(
                    "service {name} has an address of its own: `recv` takes one without `deliver` and `listen`"
                ));
            }
            Some(ServiceAddress::Receive) => {}
        }
        if !address.ip().is_loopback() || address.port() == 0 {
            return refuse(format!("{address} is no loopback address with a port"));
        }
        if self.receivers.contains_key(&name) {
            return refuse(format!("service {name} has a receiver already"));
        }
        answers.ok(&Received::Waiting);
        self.receivers.insert(name.clone(), Receiver { client, answers, address, channel: None });
        self.feed(Input::Receiving { service: name, on: true });
    }

    fn gone(&mut self, client: u64) {
        self.watchers.remove(&client);
        self.unwatch(client);
        self.idempotency.gone(client);
        let asked =
            |asking: &Asking| matches!(asking, Asking::Open(opener) if opener.left_by(client));
        let opens = self.asking.iter().filter(|(_, asking)| asked(asking));
        for open in opens.map(|(id, _)| *id).collect::<Vec<_>>() {
            let id = self.next_request();
            self.feed(Input::Request { id, request: Request::Withdraw { open } });
        }
        let of_client = self.receivers.extract_if(.., |_, receiver| receiver.client == client);
        let gone: Vec<ServiceName> = of_client.map(|(service, _)| service).collect();
        for service in gone {
            self.feed(Input::Receiving { service, on: false });
        }
    }

    fn statistics(&mut self) -> dto::StatisticsReply {
        let (peer, uptime_ms) = (self.config.name.clone(), self.now().0 / 1_000);
        let strays: Vec<_> =
            self.engine.workers().iter().map(|worker| worker.stats.drops()).collect();
        let frames = self.channels.totals(strays.into_iter().flatten());
        let roles = ["source", "service", "relay"].map(str::to_owned);
        let roles = roles.into_iter().zip(self.node.channel_roles());
        dto::StatisticsReply {
            frames,
            channels: roles.map(|(role, count)| (role, count as u64)).collect(),
            waiting: self.node.waiting(self.now()).len() as u64,
            forbidden: rules::forbidden(self.node.policy()),
            ..self.counters.reply(peer, uptime_ms, self.node.counters())
        }
    }

    // --- The computation ---

    fn course(&mut self, all: bool, answers: Answers) {
        if all {
            return self.ask(Asking::Course(answers), Request::CollectLinks { course: true });
        }
        let course = self.node.course().map(|(course, _)| course);
        answers.ok(&BTreeMap::from([(self.config.name.clone(), views::course(course))]));
    }

    // --- Status ---

    fn status(&self) -> StatusReply {
        let links = self.node.links();
        let tree = self.node.tree();
        let (backend, backend_why) = self.engine.backend();
        let [egress, ingress] = Way::BOTH.map(|way| self.node.budget(way));
        let budget = |(usable_bps, free_bps)| dto::BudgetStatus { usable_bps, free_bps };
        StatusReply {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: self.facts.key.clone(),
            listen: self.config.listen,
            pid: std::process::id(),
            uptime_ms: self.now().0 / 1_000,
            backend: backend.to_owned(),
            backend_why: backend_why.to_owned(),
            runtime: self.facts.runtime.to_owned(),
            control: self.lane(),
            workers: self.workers(),
            session: tree.session.map(|session| session.to_string()),
            tree_complete: tree.complete,
            computation: self.node.course().map(|course| views::computation(&course, self.now())),
            peers: self.node.peers().len(),
            links_up: links.iter().filter(|link| link.state == LinkState::Up).count(),
            links: links.len(),
            links_by_trust: self.config.links.iter().filter(|link| link.by_trust).count(),
            invitations: self.invitations().iter().filter(|row| row.state == "open").count(),
            channels: self.node.channel_count(),
            watches: self.watches.len(),
            facts: views::facts_status(&self.node.graph().counters()),
            egress: egress.map(budget),
            ingress: ingress.map(budget),
            warnings: self.warnings(),
        }
    }

    fn lane(&self) -> ControlStatus {
        let lane = &self.facts.lane;
        ControlStatus {
            cpus: lane.cpus.clone(),
            shared: lane.shared,
            slice_us: lane.slice.granted().map(micros),
            longest_piece_us: micros(lane::longest_piece()),
            handshakes: self.neighbours.handshakes(),
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        use std::sync::atomic::Ordering::Relaxed;
        let workers = self.engine.workers().iter();
        workers
            .map(|worker| WorkerStatus {
                port: worker.port,
                cpu: worker.cpu,
                slice_us: worker.slice.map(micros),
                receive_buffer_bytes: worker.receive_buffer,
                batches: worker.stats.batches.load(Relaxed),
                datagrams: worker.stats.datagrams.load(Relaxed),
                heartbeats_sent: worker.stats.heartbeats_sent.load(Relaxed),
                heartbeats_heard: worker.stats.heartbeats_heard.load(Relaxed),
                dropped: views::drops(worker.stats.drops()),
            })
            .collect()
    }
}

pub(super) fn choice(path: dto::PathChoice) -> Choice {
    match path {
        dto::PathChoice::Named(dto::NamedPath::Tree) => Choice::Tree,
        dto::PathChoice::Named(dto::NamedPath::Widest) => Choice::Widest,
        dto::PathChoice::Named(dto::NamedPath::TreeThenWidest) => Choice::TreeThenWidest,
        dto::PathChoice::Given(path) => Choice::Given(path),
    }
}

pub(super) fn check_rates(rate: Bandwidth, rate_back: Option<Bandwidth>) -> Result<(), String> {
    for (what, rate) in [("bandwidth", Some(rate)), ("bandwidth back", rate_back)] {
        match rate {
            // The way back may have none.
            Some(Bandwidth::ZERO) if what == "bandwidth" => {
                return Err(format!("{what} 0 is no rate: ask for at least 1 bit/s"));
            }
            Some(rate) if rate > Bandwidth::MAX => {
                return Err(format!("{what} is too large: at most {}", Bandwidth::MAX));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// A path that a person wrote: whether its links are there is the node's to say.
fn check_path(path: &[PeerName], me: &PeerName, to: &PeerName) -> Result<(), String> {
    if path.last() != Some(to) {
        return Err(format!(
            "the path must end at {to}: write the peers behind {me} in order, {to} last"
        ));
    }
    if path.len() >= limits::PATH_PEERS_MAX {
        return Err(format!(
            "a path of {} peers is too long: at most {} are possible, {me} included",
            path.len() + 1,
            limits::PATH_PEERS_MAX
        ));
    }
    let twice = |(at, peer): &(usize, &PeerName)| *peer == me || path[..*at].contains(peer);
    match path.iter().enumerate().find(twice) {
        Some((_, peer)) => Err(format!("the path comes to {peer} twice: leave out the way round")),
        None => Ok(()),
    }
}

/// How long a link may be measured.
fn check_measure(max: Option<Bandwidth>, duration_ms: u64) -> Result<Duration, String> {
    let duration = Duration::from_millis(duration_ms);
    if !(limits::MEASURE_MIN..=limits::MEASURE_MAX).contains(&duration) {
        return Err(format!(
            "a duration of {duration:?} is not possible: {:?} to {:?} are",
            limits::MEASURE_MIN,
            limits::MEASURE_MAX
        ));
    }
    let least = Bandwidth::from_bps(limits::TRAIN_RATE_BPS_MIN);
    match max {
        Some(max) if max < least => {
            Err(format!("max {max} is too low to measure anything: write at least {least}"))
        }
        Some(_) | None => Ok(duration),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn rows<View, Row>(views: Vec<View>, row: impl FnMut(View) -> Row) -> Vec<Row> {
    views.into_iter().map(row).collect()
}

/// The peer next to `me` on a path, towards its end if there is one there.
fn neighbour_of<'a>(path: &'a [PeerName], me: &PeerName) -> Option<&'a PeerName> {
    let at = path.iter().position(|peer| peer == me)?;
    path.get(at + 1).or_else(|| path.get(at.checked_sub(1)?))
}

fn tell<T: Serialize>(answers: &Answers, result: Result<T, (FailureKind, String)>) {
    match result {
        Ok(value) => answers.ok(&value),
        Err((kind, message)) => answers.failed(kind, message),
    }
}

fn refuse(answers: &Answers, rejection: &Rejection) {
    let late = rejection.reason == Reject::Timeout;
    let kind = if late { FailureKind::Timeout } else { FailureKind::Rejected };
    let message = format!("{}: {}", rejection.reason, rejection.detail);
    answers.refused(dto::Failure { kind, message, reason: Some(rejection.reason) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_none_is_refused_with_what_to_write() {
        let name = |text: &str| PeerName::new(text).expect("a name");
        let path = |text: &str| text.split(',').map(name).collect::<Vec<_>>();
        let check = |text: &str| check_path(&path(text), &name("a"), &name("d"));
        assert_eq!(check("b,c,d"), Ok(()));
        assert_eq!(check("d"), Ok(()));
        for (text, words) in [
            ("b,c", "must end at d"),
            ("a,b,d", "comes to a twice"),
            ("b,c,b,d", "comes to b twice"),
            ("d,b,d", "comes to d twice"),
        ] {
            let error = check(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let long: Vec<_> = (0..limits::PATH_PEERS_MAX).map(|at| format!("p{at}")).collect();
        let error = check(&format!("{},d", long.join(","))).expect_err("too long");
        assert!(error.contains("too long"), "{error}");
    }
}
