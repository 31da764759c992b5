//! Measuring how much a link carries: the asker's conversation with its neighbour, and the
//! neighbour's part in it.
//!
//! The asker runs the whole measurement, one train of probes after the other: first towards the
//! neighbour, which counts, then back, and it counts itself. [`search`] decides about rates. The
//! neighbour keeps nothing but whose probes it counts, and that for a bounded time. Probes take what
//! rates they take on top of what runs; a link is measured by one peer at a time.
//!
//! Assumes that messages of a link arrive in order. Every measurement is answered: with what was found
//! when its time is up, or with why there is none.

pub mod search;

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

pub use self::search::{Limit, Point, Search};
use super::{Action, Answer, MeasureRequest, Measured, MeasuredWay, Rejection, Timer};
use crate::limits;
use crate::types::{Bandwidth, LinkId, PeerName, Reject, RequestId, Time};
use crate::wire::control::Message;
use crate::wire::measure::{self, Arrived, Measure, MeasureBody, Train};

/// What this machine is told about a link that is up; lent by [`super::node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub peer: PeerName,
    /// Highest control version that both ends speak.
    pub version: u16,
    /// As configured at this end, and the smaller of both ends' usable ones.
    pub configured: Bandwidth,
    pub usable: Bandwidth,
    /// Largest IP packet, and how much of each is IP and UDP header.
    pub packet_bytes: u16,
    pub header_bytes: u16,
    /// Held by channels.
    pub reserved_out: Bandwidth,
    pub reserved_back: Bandwidth,
}

/// All measurements of one peer: at most one a link.
#[derive(Debug)]
pub struct Measurements {
    rng: ChaCha20Rng,
    links: BTreeMap<LinkId, Part>,
}

/// This peer's part in the measurement of a link.
#[derive(Debug)]
enum Part {
    Asker(Box<Asker>),
    Neighbour { id: u64, facts: Facts, until: Time, asked: Option<u32> },
}

#[derive(Debug)]
struct Asker {
    id: u64,
    request: RequestId,
    facts: Facts,
    max: Bandwidth,
    began: Time,
    /// When one way has to be done, and when both.
    half: Time,
    end: Time,
    way: Way,
    out: Search,
    back: Search,
    number: u32,
    train: Option<(Train, bool)>,
    step: Step,
    rtts: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The neighbour has not answered Ask yet.
    Asked,
    /// The train leaves, here or there.
    Sending,
    /// What is on its way arrives until then.
    Settling { until: Time, sent: u32, took: Duration },
    /// Counted there or here.
    Counting { sent: u32, took: Duration },
    /// What a buffer still holds of an overload leaves it until then.
    Draining { until: Time },
}

impl Measurements {
    pub fn new(rng: ChaCha20Rng) -> Self {
        Self { rng, links: BTreeMap::new() }
    }

    /// A local person wants to know what `link` carries.
    pub fn ask(
        &mut self,
        now: Time,
        request: RequestId,
        wanted: &MeasureRequest,
        link: LinkId,
        facts: Facts,
        out: &mut Vec<Action>,
    ) {
        let peer = &facts.peer;
        if facts.version < measure::VERSION {
            let detail = format!(
                "{peer} speaks control version {}, measuring needs {}: update it",
                facts.version,
                measure::VERSION
            );
            return out.push(rejected(request, Reject::NotAllowed, detail));
        }
        if self.links.contains_key(&link) {
            let detail = format!("the link to {peer} is being measured already");
            return out.push(rejected(request, Reject::Busy, detail));
        }
        let top = most(facts.configured);
        if wanted.max.is_some_and(|max| max > top) {
            let detail = format!(
                "the capacity of the link to {peer} is configured as {}: at most {top} is tried, \
                 raise it first",
                facts.configured
            );
            return out.push(rejected(request, Reject::NotAllowed, detail));
        }
        let default = Bandwidth::from_bps(facts.configured.bps().saturating_mul(4));
        let max = wanted.max.unwrap_or_else(|| default.min(top));
        let first = Bandwidth::from_bps(facts.configured.bps() / 8);
        let id = self.rng.next_u64();
        let duration = wanted.duration.min(limits::MEASURE_MAX);
        let asker = Asker {
            id,
            request,
            facts,
            max,
            began: now,
            half: now + duration / 2,
            end: now + duration,
            way: Way::Out,
            out: Search::new(first, max),
            back: Search::new(first, max),
            number: 0,
            train: None,
            step: Step::Asked,
            rtts: Vec::new(),
        };
        self.links.insert(link, Part::Asker(Box::new(asker)));
        // Probes of the way back are counted here, and round trips.
        out.push(Action::CountProbes { link, on: true });
        out.push(say(link, id, MeasureBody::Ask));
    }

    /// A message of the neighbour.
    pub fn message(
        &mut self,
        now: Time,
        link: LinkId,
        message: Measure,
        facts: Facts,
        out: &mut Vec<Action>,
    ) {
        let Measure { id, body } = message;
        match (self.links.get_mut(&link), body) {
            (None, MeasureBody::Ask) => {
                let until = now + limits::MEASURE_MAX + limits::MEASURE_GRACE;
                self.links.insert(link, Part::Neighbour { id, facts, until, asked: None });
                out.push(Action::CountProbes { link, on: true });
                out.push(say(link, id, MeasureBody::Ready));
            }
            (Some(_), MeasureBody::Ask) => {
                let why = "it is being measured already".to_owned();
                out.push(say(link, id, MeasureBody::Refused(why)));
            }
            (Some(Part::Neighbour { id: current, facts, asked, .. }), body) if *current == id => {
                match body {
                    MeasureBody::End => self.forget(link, out),
                    MeasureBody::Count { number } => {
                        out.push(Action::CountTrain { link, number });
                    }
                    MeasureBody::Train(train) => send_asked(link, id, facts, train, asked, out),
                    MeasureBody::Ask
                    | MeasureBody::Ready
                    | MeasureBody::Refused(_)
                    | MeasureBody::Sent { .. }
                    | MeasureBody::Counted { .. } => {}
                }
            }
            (Some(Part::Asker(asker)), body) if asker.id == id => {
                if let Some(why) = asker.on_answer(now, link, body, out) {
                    self.fail(link, Reject::NotAllowed, why, out);
                } else {
                    self.finish_if_done(now, link, out);
                }
            }
            // Of a measurement that is over.
            (Some(_) | None, _) => {}
        }
    }

    /// The engine sent a train that it was told to; `rtt` is the link's last round trip.
    pub fn train_sent(
        &mut self,
        now: Time,
        link: LinkId,
        sent: Sent,
        rtt: Option<Duration>,
        out: &mut Vec<Action>,
    ) {
        let Sent { number, frames, took } = sent;
        match self.links.get_mut(&link) {
            Some(Part::Asker(asker)) => asker.sent(now, number, frames, took, rtt),
            Some(Part::Neighbour { id, asked, .. }) if *asked == Some(number) => {
                *asked = None;
                let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                out.push(say(link, *id, MeasureBody::Sent { number, frames, took_us }));
            }
            Some(Part::Neighbour { .. }) | None => {}
        }
    }

    /// The engine counted what arrived of a train.
    pub fn train_counted(
        &mut self,
        now: Time,
        link: LinkId,
        number: u32,
        arrived: Arrived,
        rtt: Option<Duration>,
        out: &mut Vec<Action>,
    ) {
        match self.links.get_mut(&link) {
            Some(Part::Asker(asker)) => {
                asker.rtts.extend(rtt);
                asker.counted(now, number, arrived);
                asker.go_on(now, link, out);
                self.finish_if_done(now, link, out);
            }
            Some(Part::Neighbour { id, .. }) => {
                out.push(say(link, *id, MeasureBody::Counted { number, arrived }));
            }
            None => {}
        }
    }

    pub fn link_down(&mut self, link: LinkId, out: &mut Vec<Action>) {
        match self.links.remove(&link) {
            Some(Part::Asker(asker)) => {
                let detail =
                    format!("the link to {} went down while it was measured", asker.facts.peer);
                out.push(rejected(asker.request, Reject::Broken, detail));
            }
            Some(Part::Neighbour { .. }) | None => {}
        }
    }

    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        let due = |part: &Part| match part {
            Part::Asker(asker) => asker.due(),
            Part::Neighbour { until, .. } => *until,
        };
        self.links.values().map(due).min().map(|at| (at, Timer::Measure))
    }

    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<Action>) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            match self.links.get_mut(&link) {
                Some(Part::Neighbour { until, .. }) if *until <= now => self.forget(link, out),
                Some(Part::Asker(asker)) if asker.due() <= now => {
                    if asker.step == Step::Asked {
                        let why = format!("{} did not answer", asker.facts.peer);
                        self.fail(link, Reject::Timeout, why, out);
                    } else {
                        asker.timed_out(now, link, out);
                        self.finish_if_done(now, link, out);
                    }
                }
                Some(_) | None => {}
            }
        }
    }

    /// Panics if this machine broke its own rules.
    pub fn invariants(&self) {
        for part in self.links.values() {
            if let Part::Asker(asker) = part {
                assert!(asker.rtts.len() <= 4 * limits::TRAINS_MAX, "one a train");
                assert!(asker.half <= asker.end);
            }
        }
    }

    fn finish_if_done(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        let Some(Part::Asker(asker)) = self.links.get(&link) else { return };
        if asker.is_done(now) {
            out.push(Action::Answer {
                id: asker.request,
                answer: Answer::Measured(Box::new(asker.result(now))),
            });
            self.end(link, out);
        }
    }

    fn fail(&mut self, link: LinkId, reason: Reject, why: String, out: &mut Vec<Action>) {
        if let Some(Part::Asker(asker)) = self.links.get(&link) {
            out.push(rejected(asker.request, reason, why));
            self.end(link, out);
        }
    }

    /// The asker's end: the neighbour need not count any more.
    fn end(&mut self, link: LinkId, out: &mut Vec<Action>) {
        if let Some(Part::Asker(asker)) = self.links.get(&link) {
            out.push(say(link, asker.id, MeasureBody::End));
        }
        self.forget(link, out);
    }

    fn forget(&mut self, link: LinkId, out: &mut Vec<Action>) {
        self.links.remove(&link);
        out.push(Action::CountProbes { link, on: false });
    }
}

/// A train that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub number: u32,
    pub frames: u32,
    pub took: Duration,
}

impl Asker {
    /// What the neighbour said; a text if it does not want to.
    fn on_answer(
        &mut self,
        now: Time,
        link: LinkId,
        body: MeasureBody,
        out: &mut Vec<Action>,
    ) -> Option<String> {
        match body {
            MeasureBody::Ready if self.step == Step::Asked => self.next_train(now, link, out),
            MeasureBody::Refused(why) => return Some(format!("{}: {why}", self.facts.peer)),
            MeasureBody::Sent { number, frames, took_us } if self.way == Way::Back => {
                self.sent(now, number, frames, Duration::from_micros(took_us.into()), None);
            }
            MeasureBody::Counted { number, arrived } if self.way == Way::Out => {
                self.counted(now, number, arrived);
                self.go_on(now, link, out);
            }
            MeasureBody::Ask
            | MeasureBody::Ready
            | MeasureBody::Train(_)
            | MeasureBody::Sent { .. }
            | MeasureBody::Count { .. }
            | MeasureBody::Counted { .. }
            | MeasureBody::End => {}
        }
        None
    }

    fn due(&self) -> Time {
        match self.step {
            Step::Settling { until, .. } | Step::Draining { until } => until.min(self.limit()),
            Step::Asked => self.began + limits::MEASURE_GRACE,
            Step::Sending | Step::Counting { .. } => self.limit(),
        }
    }

    /// When this way has to be done. Messages that are under way then get a little more.
    fn limit(&self) -> Time {
        match self.way {
            Way::Out => self.half,
            Way::Back => self.end,
        }
    }

    fn sent(&mut self, now: Time, number: u32, frames: u32, took: Duration, rtt: Option<Duration>) {
        self.rtts.extend(rtt);
        if self.step == Step::Sending && self.number == number {
            let wait = took.clamp(limits::TRAIN_SETTLE.0, limits::TRAIN_SETTLE.1);
            self.step = Step::Settling { until: now + wait, sent: frames, took };
        }
    }

    fn counted(&mut self, now: Time, number: u32, arrived: Arrived) {
        let (Step::Counting { sent, took }, Some((train, long))) = (self.step, self.train) else {
            return;
        };
        if self.number != number {
            return;
        }
        let packet_bits = (u64::from(train.frame_bytes) + u64::from(self.facts.header_bytes)) * 8;
        let rate_of = |frames: u32, micros: u128| {
            let bits = u128::from(frames) * u128::from(packet_bits) * 1_000_000;
            u64::try_from(bits / micros.max(1)).unwrap_or(u64::MAX)
        };
        // Gaps, not frames: the last one needs no time behind it.
        let rate = match took.as_micros() {
            0 => train.rate.bps(),
            micros => rate_of(sent.saturating_sub(1), micros),
        };
        let tail_us = u128::from(arrived.tail_us);
        let tells = arrived.tail_frames >= limits::TRAIN_TAIL_FRAMES_MIN && tail_us > 0;
        let arrived_rate = tells.then(|| rate_of(arrived.tail_frames, tail_us));
        let point = Point {
            rate: Bandwidth::from_bps(rate),
            sent,
            arrived: arrived.frames.min(sent),
            arrived_rate: arrived_rate.map(Bandwidth::from_bps),
            long,
        };
        // More than the link let out is in a buffer, and would spoil the next train.
        let drain = match arrived_rate {
            Some(out) if out > 0 && !point.carried() => {
                let whole =
                    u128::from(sent) * u128::from(packet_bits) * 1_000_000 / u128::from(out);
                let whole = Duration::from_micros(u64::try_from(whole).unwrap_or(u64::MAX));
                whole.saturating_sub(took).min(limits::TRAIN_DRAIN_MAX)
            }
            Some(_) | None => Duration::ZERO,
        };
        self.search().record(point);
        self.step = Step::Draining { until: now + drain };
    }

    fn timed_out(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        match self.step {
            Step::Settling { until, sent, took } if until <= now => {
                self.step = Step::Counting { sent, took };
                let number = self.number;
                out.push(match self.way {
                    Way::Out => say(link, self.id, MeasureBody::Count { number }),
                    Way::Back => Action::CountTrain { link, number },
                });
            }
            Step::Asked
            | Step::Sending
            | Step::Settling { .. }
            | Step::Counting { .. }
            | Step::Draining { .. } => self.go_on(now, link, out),
        }
    }

    /// Over to the other way, or to the next train.
    fn go_on(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        let late = self.limit() <= now;
        let rested = matches!(self.step, Step::Draining { until } if until <= now);
        if self.way == Way::Out && (late || (rested && self.search().wanted().is_none())) {
            // What is saved on the way out is there for the way back.
            self.way = Way::Back;
            self.next_train(now, link, out);
        } else if rested && !late {
            self.next_train(now, link, out);
        }
    }

    fn next_train(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        let Some(wanted) = self.search().wanted() else {
            self.step = Step::Draining { until: now };
            return;
        };
        self.number += 1;
        let span_us = u64::try_from(wanted.span.as_micros()).unwrap_or(u64::MAX);
        let bits = u128::from(wanted.rate.bps()) * u128::from(span_us) / 1_000_000;
        let bytes = u64::try_from(bits / 8).unwrap_or(u64::MAX);
        let (least, most) = (*limits::PROBE_BYTES.start(), *limits::PROBE_BYTES.end());
        let header = u64::from(self.facts.header_bytes);
        let room = u64::from(self.facts.packet_bytes).saturating_sub(header);
        // Small probes where a train of large ones would be a handful.
        let frame = bytes / u64::from(limits::TRAIN_FRAMES_WANTED);
        let frame = frame.saturating_sub(header).clamp(least.into(), room.min(most.into()));
        let frames = (bytes / (frame + header))
            .clamp(limits::TRAIN_FRAMES_MIN.into(), limits::TRAIN_FRAMES_MAX.into());
        let train = Train {
            number: self.number,
            frames: u32::try_from(frames).unwrap_or(limits::TRAIN_FRAMES_MAX),
            frame_bytes: u16::try_from(frame).unwrap_or(most),
            rate: wanted.rate,
        };
        self.train = Some((train, wanted.long));
        self.step = Step::Sending;
        let header_bytes = self.facts.header_bytes;
        out.push(match self.way {
            Way::Out => Action::SendTrain { link, train, header_bytes },
            Way::Back => say(link, self.id, MeasureBody::Train(train)),
        });
    }

    fn search(&mut self) -> &mut Search {
        match self.way {
            Way::Out => &mut self.out,
            Way::Back => &mut self.back,
        }
    }

    fn is_done(&self, now: Time) -> bool {
        let found = self.back.wanted().is_none() && matches!(self.step, Step::Draining { .. });
        self.way == Way::Back && (found || self.end <= now)
    }

    fn result(&self, now: Time) -> Measured {
        let way = |search: &Search| {
            let (best, limit) = search.result();
            MeasuredWay { best, limit, points: search.points().to_vec() }
        };
        let mut rtts = self.rtts.clone();
        rtts.sort_unstable();
        Measured {
            peer: self.facts.peer.clone(),
            took: now.since(self.began),
            max: self.max,
            configured: self.facts.configured,
            usable: self.facts.usable,
            reserved_out: self.facts.reserved_out,
            reserved_back: self.facts.reserved_back,
            out: way(&self.out),
            back: way(&self.back),
            rtt_p50: rtts.get(rtts.len() / 2).copied(),
        }
    }
}

/// The neighbour's part: a train the asker wants, within what this end's operator configured.
fn send_asked(
    link: LinkId,
    id: u64,
    facts: &Facts,
    train: Train,
    asked: &mut Option<u32>,
    out: &mut Vec<Action>,
) {
    let top = most(facts.configured);
    let room = facts.packet_bytes.saturating_sub(facts.header_bytes);
    let why = if asked.is_some() {
        "a train is on its way already".to_owned()
    } else if train.rate > top {
        format!("its end of the link is configured as {}: at most {top}", facts.configured)
    } else if train.frame_bytes > room {
        format!("a probe of {} bytes does not fit the link", train.frame_bytes)
    } else {
        *asked = Some(train.number);
        out.push(Action::SendTrain { link, train, header_bytes: facts.header_bytes });
        return;
    };
    out.push(say(link, id, MeasureBody::Refused(why)));
}

/// The highest rate that is ever tried on a link that somebody configured as so much.
fn most(configured: Bandwidth) -> Bandwidth {
    let most = configured.bps().saturating_mul(limits::MEASURE_TIMES_MAX);
    Bandwidth::from_bps(most).min(Bandwidth::MAX)
}

fn say(link: LinkId, id: u64, body: MeasureBody) -> Action {
    Action::Send { link, message: Message::Measure(Measure { id, body }) }
}

fn rejected(id: RequestId, reason: Reject, detail: String) -> Action {
    Action::Answer { id, answer: Answer::Rejected(Rejection::new(reason, detail)) }
}

#[cfg(test)]
mod tests;
