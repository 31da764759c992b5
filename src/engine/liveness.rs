//! Which neighbours live: heartbeats to send, heartbeats heard, and the verdict "silent".
//!
//! Pure: worker 0 hands it times, datagrams and a way to send. A link is judged by deadlines that
//! only grow when the neighbour is heard, and when *we* were late ([`Liveness::woke`]): a worker that
//! did not run for a while must not take its own absence for the neighbours'.
//!
//! Assumes times that never go back. Does not decide what a silent link means: the daemon does.

use core::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::table::canonical;
use super::{LinkSpec, Silence};
use crate::limits::{HEARTBEAT_TICK, LINK_GRACE, OVERLOAD_MEMORY, OVERLOAD_PATIENCE};
use crate::types::{LinkId, Time};
use crate::wire::frame::Header;
use crate::wire::heartbeat::{HEARTBEAT_BYTES, Heartbeat};

#[derive(Debug)]
pub struct Liveness {
    /// By link number.
    links: Vec<Option<Watch>>,
    /// When [`Liveness::tick`] has something to do.
    next: Time,
    interval_min: Duration,
    /// When our own socket last dropped what came.
    overflowed_at: Option<Time>,
}

/// One neighbour.
#[derive(Debug)]
struct Watch {
    spec: Arc<LinkSpec>,
    address: SocketAddr,
    /// Of the last heartbeat sent.
    sent: u64,
    send_at: Time,
    /// Highest sequence heard, 0 before the first, and when.
    heard: u64,
    heard_at: Time,
    /// When the last heartbeats were sent, by sequence, and the last round trip.
    sent_at: [Time; SENT_KEPT],
    rtt: Option<Duration>,
    /// When the link was last known to carry something to us. In the future while the grace of a new
    /// link lasts.
    alive_at: Time,
    /// Our highest sequence that the neighbour says it heard, and when it said so first.
    confirmed: u64,
    confirmed_at: Time,
    /// Its last heartbeat said that its socket overflows.
    overloaded: bool,
    /// Reported as silent; not again before the next [`Liveness::set`].
    reported: bool,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { links: Vec::new(), next: NEVER, interval_min: Duration::MAX, overflowed_at: None }
    }
}

/// Heartbeats whose times of sending are kept: an answer to an older one says nothing new.
const SENT_KEPT: usize = 16;

const NEVER: Time = Time(u64::MAX);

impl Liveness {
    /// A new link, or news of one. The same labels and keys are the same link: what was heard stays.
    pub fn set(&mut self, spec: &Arc<LinkSpec>, now: Time) {
        let index = usize::from(spec.link.0);
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        let old = self.links[index].take();
        let watch = match old {
            Some(old) if same_life(&old.spec, spec) => old.updated(spec, now),
            _ => Watch::new(spec, now),
        };
        self.links[index] = Some(watch);
        self.next = now;
        self.find_interval_min();
    }

    pub fn remove(&mut self, link: LinkId) {
        if let Some(watch) = self.links.get_mut(usize::from(link.0)) {
            *watch = None;
        }
        self.find_interval_min();
    }

    /// When [`Liveness::tick`] wants to be called; `None` without links.
    pub fn next(&self) -> Option<Time> {
        (self.next != NEVER).then_some(self.next)
    }

    /// To be called first after every wait: if we are late by more than an interval, every deadline
    /// moves by as much.
    pub fn woke(&mut self, now: Time) {
        let late = now.since(self.next);
        if late <= self.interval_min {
            return;
        }
        for watch in self.links.iter_mut().flatten() {
            watch.alive_at = watch.alive_at + late;
            watch.confirmed_at = watch.confirmed_at + late;
        }
        self.next = now;
    }

    /// The kernel dropped datagrams at our socket: heartbeats may be among them, so silence proves less
    /// for a while.
    pub fn overflowed(&mut self, now: Time) {
        self.overflowed_at = Some(now);
    }

    /// A valid frame came over the link.
    #[inline]
    pub fn on_frame(&mut self, link: LinkId, now: Time) {
        if let Some(Some(watch)) = self.links.get_mut(usize::from(link.0)) {
            watch.alive_at = watch.alive_at.max(now);
        }
    }

    /// A datagram that names `link` as a heartbeat. `None`: not a valid one, or from where nobody follows
    /// it. `Some(moved)`: heard, and `moved` if it did not come from the link's address; the caller then
    /// calls [`Liveness::moved`].
    pub fn on_heartbeat(
        &mut self,
        link: LinkId,
        header: &Header,
        datagram: &[u8],
        source: SocketAddr,
        now: Time,
    ) -> Option<bool> {
        let watch = self.links.get_mut(usize::from(link.0))?.as_mut()?;
        if header.sequence <= watch.heard {
            return None;
        }
        let beat = Heartbeat::verify(header, datagram, &watch.spec.receive_key)?;
        // A neighbour can send from any address it likes to forge: not every one is followed. Unheard, the
        // link dies, and the next connection shows where the neighbour is.
        let moved = source != watch.address;
        if moved && watch.spec.reach.follow(watch.address, source).is_err() {
            return None;
        }
        let first = watch.heard == 0;
        watch.heard = beat.sequence;
        watch.heard_at = now;
        watch.overloaded = beat.overloaded;
        // The first one ends the grace of a new link.
        watch.alive_at = if first { now } else { watch.alive_at.max(now) };
        if beat.heard > watch.confirmed && beat.heard <= watch.sent {
            watch.measure(&beat, now);
            let first = watch.confirmed == 0;
            watch.confirmed = beat.heard;
            watch.confirmed_at = if first { now } else { watch.confirmed_at.max(now) };
        }
        watch.spec.pulse.note(now, watch.rtt);
        Some(moved)
    }

    /// What the link is, and where its neighbour is now.
    pub fn link(&self, link: LinkId) -> Option<(&Arc<LinkSpec>, SocketAddr)> {
        let watch = self.links.get(usize::from(link.0))?.as_ref()?;
        Some((&watch.spec, watch.address))
    }

    /// The last round trip of a heartbeat: there, the neighbour's wait left out, and back.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.links.get(usize::from(link.0))?.as_ref()?.rtt
    }

    /// Heartbeats go to the new address from now on.
    pub fn moved(&mut self, link: LinkId, address: SocketAddr) {
        if let Some(Some(watch)) = self.links.get_mut(usize::from(link.0)) {
            watch.address = address;
        }
    }

    /// Sends the heartbeats that are due and finds the time of the next call.
    pub fn tick(&mut self, now: Time, mut send: impl FnMut(SocketAddr, &[u8; HEARTBEAT_BYTES])) {
        self.next = NEVER;
        let overloaded = self.is_overloaded(now);
        for watch in self.links.iter_mut().flatten() {
            if watch.send_at <= now + HEARTBEAT_TICK {
                let beat = watch.beat(now, overloaded);
                send(watch.address, &beat);
                watch.send_at = now + watch.spec.interval;
            }
            self.next = self.next.min(watch.send_at);
        }
        // A shorter interval of one link must not make a busy loop of the others' remainders.
        if self.next != NEVER {
            self.next = self.next.max(now + HEARTBEAT_TICK);
        }
    }

    /// Reports every link that is silent for the first time. `report` says whether the report was
    /// taken; if not, it is made again next time. To be called when nothing waits in the socket.
    pub fn judge(&mut self, now: Time, mut report: impl FnMut(LinkId, Silence) -> bool) {
        let overloaded = self.is_overloaded(now);
        for watch in self.links.iter_mut().flatten() {
            let allowed = watch.spec.interval * watch.spec.missed_max;
            // Whose socket drops datagrams hears a part of the heartbeats only.
            let of = |overloaded| if overloaded { allowed * OVERLOAD_PATIENCE } else { allowed };
            let why = if now.since(watch.alive_at) > of(overloaded) {
                Silence::NotHeard
            } else if watch.heard_at.since(watch.confirmed_at) > of(overloaded || watch.overloaded)
            {
                // Its last heartbeat said so, not only our waiting for the next one.
                Silence::NotHearing
            } else {
                continue;
            };
            watch.reported = watch.reported || report(watch.spec.link, why);
        }
    }

    fn is_overloaded(&self, now: Time) -> bool {
        self.overflowed_at.is_some_and(|at| now.since(at) <= OVERLOAD_MEMORY)
    }

    fn find_interval_min(&mut self) {
        let intervals = self.links.iter().flatten().map(|watch| watch.spec.interval);
        self.interval_min = intervals.min().unwrap_or(Duration::MAX);
        if self.interval_min == Duration::MAX {
            self.next = NEVER;
        }
    }
}

impl Watch {
    fn new(spec: &Arc<LinkSpec>, now: Time) -> Self {
        Self {
            spec: Arc::clone(spec),
            address: canonical(spec.address),
            sent: 0,
            send_at: now,
            heard: 0,
            heard_at: now,
            sent_at: [now; SENT_KEPT],
            rtt: None,
            alive_at: now + LINK_GRACE,
            confirmed: 0,
            confirmed_at: now + LINK_GRACE,
            overloaded: false,
            reported: false,
        }
    }

    fn updated(mut self, spec: &Arc<LinkSpec>, now: Time) -> Self {
        self.spec = Arc::clone(spec);
        self.address = canonical(spec.address);
        self.send_at = self.send_at.min(now + spec.interval);
        if self.reported {
            self.reported = false;
            self.alive_at = now + LINK_GRACE;
            self.confirmed_at = now + LINK_GRACE;
        }
        self
    }

    /// The neighbour heard one of our last heartbeats, so long before it sent this one.
    fn measure(&mut self, beat: &Heartbeat, now: Time) {
        if beat.heard + SENT_KEPT as u64 > self.sent {
            let both = now.since(self.sent_at[slot(beat.heard)]);
            self.rtt = Some(both.saturating_sub(Duration::from_micros(beat.heard_age_us.into())));
        }
    }

    fn beat(&mut self, now: Time, overloaded: bool) -> [u8; HEARTBEAT_BYTES] {
        self.sent += 1;
        self.sent_at[slot(self.sent)] = now;
        let age = now.since(self.heard_at).as_micros();
        let beat = Heartbeat {
            label: self.spec.send_label,
            sequence: self.sent,
            heard: self.heard,
            heard_age_us: u32::try_from(age).unwrap_or(u32::MAX),
            overloaded,
        };
        beat.emit(&self.spec.send_key)
    }
}

fn slot(sequence: u64) -> usize {
    usize::try_from(sequence % SENT_KEPT as u64).expect("below SENT_KEPT")
}

fn same_life(one: &LinkSpec, other: &LinkSpec) -> bool {
    one.send_label == other.send_label
        && one.receive_label == other.receive_label
        && one.send_key == other.send_key
        && one.receive_key == other.receive_key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Label;
    use crate::types::address::Reach;
    use crate::wire::frame;
    use crate::wire::heartbeat::HeartbeatKey;

    const INTERVAL: Duration = Duration::from_millis(25);
    const ALLOWED: Duration = Duration::from_millis(125);

    fn ms(ms: u64) -> Time {
        Time(1_000_000 + ms * 1_000)
    }

    fn spec(send: u8, receive: u8) -> Arc<LinkSpec> {
        Arc::new(LinkSpec {
            link: LinkId(3),
            address: SocketAddr::from(([127, 0, 0, 1], u16::from(receive))),
            workers: 1,
            send_label: Label(send.into()),
            send_key: HeartbeatKey([send; 32]),
            receive_label: Label(receive.into()),
            receive_key: HeartbeatKey([receive; 32]),
            interval: INTERVAL,
            missed_max: 5,
            tags: None,
            reach: Reach::new(([127, 0, 0, 1], 1).into(), 1..=1, []),
            pulse: Arc::default(),
        })
    }

    struct Pair {
        one: Liveness,
        other: Liveness,
        one_hears: bool,
        other_hears: bool,
    }

    /// Its neighbour could make it send anywhere otherwise.
    #[test]
    fn a_heartbeat_from_where_nobody_is_followed_is_not_heard() {
        let mut one = Liveness::default();
        one.set(&spec(1, 2), ms(0));
        let beat = |sequence| {
            let beat = Heartbeat {
                label: Label(2),
                sequence,
                heard: 0,
                heard_age_us: 0,
                overloaded: false,
            };
            beat.emit(&HeartbeatKey([2; 32]))
        };
        let mut heard = |sequence, source: &str| {
            let bytes = beat(sequence);
            let header = frame::parse(&bytes).unwrap();
            one.on_heartbeat(LinkId(3), &header, &bytes, source.parse().unwrap(), ms(1))
        };
        for elsewhere in ["169.254.169.254:80", "224.0.0.1:9", "192.168.0.1:9", "127.0.0.1:1"] {
            assert_eq!(heard(1, elsewhere), None, "{elsewhere}");
        }
        // And takes no number with it.
        assert_eq!(heard(1, "127.0.0.2:9"), Some(true));
        assert_eq!(heard(2, "203.0.113.7:9"), Some(true));
    }

    fn pair() -> Pair {
        let (mut one, mut other) = (Liveness::default(), Liveness::default());
        one.set(&spec(1, 2), ms(0));
        other.set(&spec(2, 1), ms(0));
        Pair { one, other, one_hears: true, other_hears: true }
    }

    fn beats(from: &mut Liveness, now: Time) -> Vec<[u8; HEARTBEAT_BYTES]> {
        let mut beats = Vec::new();
        from.tick(now, |_, beat| beats.push(*beat));
        beats
    }

    fn hear(at: &mut Liveness, source_port: u16, beat: &[u8], now: Time) -> Option<bool> {
        let header = frame::parse(beat).unwrap();
        let source = SocketAddr::from(([127, 0, 0, 1], source_port));
        at.on_heartbeat(LinkId(3), &header, beat, source, now)
    }

    fn verdicts(of: &mut Liveness, now: Time) -> Vec<Silence> {
        let mut verdicts = Vec::new();
        of.judge(now, |_, why| {
            verdicts.push(why);
            true
        });
        verdicts
    }

    impl Pair {
        /// Runs both ends for a time; the verdicts of the first.
        fn run(&mut self, from: u64, to: u64) -> Vec<(u64, Silence)> {
            let mut seen = Vec::new();
            for at in from..to {
                let now = ms(at);
                self.one.woke(now);
                self.other.woke(now);
                if self.one.next().is_some_and(|next| next <= now) {
                    for beat in beats(&mut self.one, now) {
                        let heard = self.other_hears.then(|| hear(&mut self.other, 1, &beat, now));
                        assert_ne!(heard, Some(None));
                    }
                }
                if self.other.next().is_some_and(|next| next <= now) {
                    for beat in beats(&mut self.other, now) {
                        let heard = self.one_hears.then(|| hear(&mut self.one, 2, &beat, now));
                        assert_ne!(heard, Some(None));
                    }
                }
                seen.extend(verdicts(&mut self.one, now).into_iter().map(|why| (at, why)));
            }
            seen
        }
    }

    #[test]
    fn neighbours_that_hear_each_other_are_never_silent() {
        assert_eq!(pair().run(0, 5_000), []);
    }

    #[test]
    fn a_neighbour_that_stops_is_silent_once_after_the_allowed_time() {
        let mut pair = pair();
        assert_eq!(pair.run(0, 300), []);
        pair.one_hears = false;
        let seen = pair.run(300, 2_000);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].1, Silence::NotHeard);
        assert!((400..=430).contains(&seen[0].0), "{seen:?}");
    }

    #[test]
    fn loss_in_the_other_direction_only_is_told_apart() {
        let mut pair = pair();
        assert_eq!(pair.run(0, 300), []);
        pair.other_hears = false;
        let seen = pair.run(300, 2_000);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].1, Silence::NotHearing);
        assert!((400..=460).contains(&seen[0].0), "{seen:?}");
    }

    #[test]
    fn the_round_trip_leaves_out_how_long_the_neighbour_waited() {
        let (mut one, mut other) = (Liveness::default(), Liveness::default());
        let link = spec(1, 2);
        one.set(&link, ms(0));
        other.set(&spec(2, 1), ms(0));
        assert_eq!((one.rtt(LinkId(3)), link.pulse.heard()), (None, None));
        let there = beats(&mut one, ms(0))[0];
        assert_eq!(hear(&mut other, 1, &there, ms(4)), Some(false));
        let back = beats(&mut other, ms(20))[0];
        assert_eq!(hear(&mut one, 2, &back, ms(27)), Some(false));
        assert_eq!(one.rtt(LinkId(3)), Some(Duration::from_millis(4 + 7)));
        assert_eq!(link.pulse.rtt(), one.rtt(LinkId(3)));
        assert_eq!(link.pulse.heard(), Some(ms(27)));
    }

    #[test]
    fn a20_an_overloaded_end_is_given_more_time_and_not_for_ever() {
        let allowed = u64::try_from(ALLOWED.as_millis()).unwrap();
        // (who overflows, who is cut off, verdict at the first)
        for (here, cut, verdict) in [
            (true, false, Silence::NotHeard),
            (true, true, Silence::NotHearing),
            (false, true, Silence::NotHearing),
        ] {
            let mut pair = pair();
            assert_eq!(pair.run(0, 300), []);
            let mut seen = Vec::new();
            (pair.one_hears, pair.other_hears) = (cut, !cut);
            for at in (300..3_000).step_by(100) {
                let end = if here { &mut pair.one } else { &mut pair.other };
                end.overflowed(ms(at));
                seen.extend(pair.run(at, at + 100));
            }
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!(seen[0].1, verdict);
            let silence = seen[0].0 - 300;
            let patience = u64::from(OVERLOAD_PATIENCE) * allowed;
            assert!((patience - 30..patience + 60).contains(&silence), "{silence} ms");
        }
    }

    #[test]
    fn a20_an_overload_that_is_over_makes_no_difference() {
        let mut pair = pair();
        pair.one.overflowed(ms(0));
        assert_eq!(pair.run(0, 2_000), []);
        pair.one_hears = false;
        let seen = pair.run(2_000, 4_000);
        assert!(matches!(seen[..], [(2_100..=2_150, Silence::NotHeard)]), "{seen:?}");
    }

    #[test]
    fn a_new_link_has_a_second_before_it_is_judged() {
        let mut pair = pair();
        pair.one_hears = false;
        let seen = pair.run(0, 2_000);
        assert!(matches!(seen[..], [(1_126, Silence::NotHeard)]), "{seen:?}");
    }

    #[test]
    fn our_own_absence_kills_no_link() {
        let mut pair = pair();
        assert_eq!(pair.run(0, 300), []);
        // Both stand still for a minute; then only what was sent before is in the sockets.
        pair.one_hears = false;
        let late = ms(60_000);
        pair.one.woke(late);
        assert_eq!(verdicts(&mut pair.one, late), []);
        pair.other.woke(late);
        pair.one_hears = true;
        assert_eq!(pair.run(60_001, 61_000), []);
        pair.one_hears = false;
        assert_eq!(pair.run(61_000, 62_000).len(), 1);
    }

    #[test]
    fn frames_keep_a_link_alive() {
        let mut one = Liveness::default();
        one.set(&spec(1, 2), ms(0));
        let beat = { beats(&mut pair().other, ms(0))[0] };
        assert_eq!(hear(&mut one, 2, &beat, ms(10)), Some(false));
        for at in 1..9 {
            one.on_frame(LinkId(3), ms(at * 100));
        }
        assert_eq!(verdicts(&mut one, ms(900)), []);
        assert_eq!(verdicts(&mut one, ms(800) + ALLOWED + INTERVAL), [Silence::NotHeard]);
    }

    #[test]
    fn an_old_or_forged_heartbeat_is_not_heard_and_moves_nothing() {
        let mut pair = pair();
        let first = beats(&mut pair.other, ms(0))[0];
        let second = beats(&mut pair.other, ms(25))[0];
        assert_eq!(hear(&mut pair.one, 2, &second, ms(26)), Some(false));
        assert_eq!(hear(&mut pair.one, 99, &second, ms(27)), None);
        assert_eq!(hear(&mut pair.one, 99, &first, ms(27)), None);
        let mut forged = beats(&mut pair.other, ms(50))[0];
        forged[40] ^= 1;
        assert_eq!(hear(&mut pair.one, 99, &forged, ms(51)), None);
        let third = beats(&mut pair.other, ms(75))[0];
        assert_eq!(hear(&mut pair.one, 99, &third, ms(76)), Some(true));
    }

    #[test]
    fn the_same_keys_are_the_same_link_and_others_are_not() {
        let mut pair = pair();
        assert_eq!(pair.run(0, 300), []);
        pair.one.set(&spec(1, 2), ms(300));
        let old = beats(&mut pair.other, ms(300));
        assert_eq!(old.len(), 1);
        assert_eq!(pair.one.links[3].as_ref().unwrap().heard, 12);
        let mut fresh = (*spec(1, 2)).clone();
        fresh.receive_key = HeartbeatKey([9; 32]);
        pair.one.set(&Arc::new(fresh), ms(301));
        assert_eq!(pair.one.links[3].as_ref().unwrap().heard, 0);
        assert_eq!(hear(&mut pair.one, 2, &old[0], ms(302)), None);
    }

    #[test]
    fn a_report_that_was_not_taken_is_made_again() {
        let mut one = Liveness::default();
        one.set(&spec(1, 2), ms(0));
        let late = ms(5_000);
        one.next = late;
        let mut asked = 0;
        for _ in 0..3 {
            one.judge(late, |_, _| {
                asked += 1;
                asked == 2
            });
        }
        assert_eq!(asked, 2);
    }

    #[test]
    fn a_removed_link_sends_nothing_and_asks_for_no_time() {
        let mut one = Liveness::default();
        one.set(&spec(1, 2), ms(0));
        one.remove(LinkId(3));
        assert_eq!(one.next(), None);
        assert_eq!(beats(&mut one, ms(1)).len(), 0);
    }
}
