//! A request that is not answered yet: what is refused at once, which path is tried next, and what the
//! answer says when no path is left (A11, A13; 2.8 of the control-plane specification).
//!
//! Hops check for themselves, so a picture that is out of date costs an attempt and nothing else: the
//! refusal names the link, which is left out of the next choice. The reservation of a path is
//! `attempt.rs`'s.

use std::collections::BTreeSet;

use super::source::{Source, Stage};
use super::{Channels, Paths};
use crate::limits;
use crate::proto::graph::Wanted;
use crate::proto::{
    Action, Choice, Fit, FitRequest, Limit, OpenRequest, Purpose, Refused, Rejection,
};
use crate::types::{Bandwidth, PeerName, Reject, RequestId, Time};
use crate::wire::control::Nack;

/// The first path is looked for.
#[derive(Clone, Debug)]
pub(super) struct Reserving {
    pub(super) request: RequestId,
    pub(super) deadline: Time,
    /// When the next path is tried, while none is.
    pub(super) next: Time,
    pub(super) refused: Vec<Refused>,
    /// Where the last path that was refused was held before that, this peer left out: the picture may
    /// still show what it took there as taken.
    pub(super) held: Vec<PeerName>,
    /// Of the last path that was refused.
    pub(super) why: Rejection,
}

impl Reserving {
    /// `carries`: some path could carry it if nothing were reserved.
    pub(super) fn new(now: Time, request: RequestId, deadline: Time, carries: bool) -> Self {
        let why = if carries {
            Rejection::new(Reject::NoRoom, "no path has room for it now, by all that is known here")
        } else {
            Rejection::new(Reject::Unreachable, "no path leads there now")
        };
        Self { request, deadline, next: now, refused: Vec::new(), held: Vec::new(), why }
    }
}

/// What a path has to be like.
#[derive(Clone, Copy, Debug)]
struct Demand<'a> {
    to: &'a PeerName,
    rate: Bandwidth,
    rate_back: Bandwidth,
    choice: &'a Choice,
    shun: &'a [PeerName],
}

impl Demand<'_> {
    fn of_any_rate(self) -> Self {
        Self { rate: Bandwidth::ZERO, rate_back: Bandwidth::ZERO, ..self }
    }
}

impl Source {
    fn demand(&self) -> Demand<'_> {
        let Self { peer, rate, rate_back, choice, shun, .. } = self;
        Demand { to: peer, rate: *rate, rate_back: *rate_back, choice, shun }
    }

    fn held(&self) -> &[PeerName] {
        match &self.stage {
            Stage::Reserving(reserving) => &reserving.held,
            Stage::OpeningEnd { .. } | Stage::Open | Stage::Moving(_) => &[],
        }
    }
}

impl Channels {
    /// Tries the next path of a request, or answers that there is none.
    pub(super) fn open_next(
        &mut self,
        now: Time,
        mut source: Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        if !self.may_ask(now, &mut source, paths, out) {
            return self.put_source(source);
        }
        loop {
            let Stage::Reserving(Reserving { deadline, refused, .. }) = &source.stage else {
                unreachable!("only what is not answered comes here")
            };
            let (deadline, tries) = (*deadline, refused.len());
            let way = self.next_way(&source, tries, paths);
            let Some(path) = way else { return self.no_way(now, source, paths, out) };
            let first = (self.me.clone(), path[1].clone());
            let until = deadline.min(now + limits::HOLD);
            let sent = self.send_reserve(now, &mut source, path.clone(), Purpose::Use, until, out);
            let Err(why) = sent else { return self.put_source(source) };
            source.avoid.link(first);
            note_refusal(&mut source, path, why);
        }
    }

    /// Nobody waits for the answer of a request any more.
    pub fn withdraw(&mut self, open: RequestId, out: &mut Vec<Action>) {
        let asked = |source: &&Source| match &source.stage {
            Stage::OpeningEnd { request, .. } => *request == open,
            Stage::Reserving(reserving) => reserving.request == open,
            Stage::Open | Stage::Moving(_) => false,
        };
        let Some(id) = self.sources.values().find(asked).map(|source| source.id.clone()) else {
            return;
        };
        let source = self.take_source(&id).expect("just seen");
        self.end_source(source, None, "its asker is gone", out);
    }

    /// An attempt of a request that is not answered yet was refused. `false`: that was the last word.
    pub(super) fn learn_refusal(
        now: Time,
        source: &mut Source,
        nack: Option<&Nack>,
        path: &[PeerName],
        why: &Rejection,
    ) -> bool {
        let before = source.avoid.len();
        if let Some(nack) = nack {
            source.avoid.learn(nack, path);
        }
        let forbidden = |nack: &Nack| nack.reason == Reject::NotAllowed && path.contains(&nack.at);
        let barred = nack.is_some_and(|nack| forbidden(nack) && source.bar(&nack.at));
        // Without a refusal the link failed, and is avoided by now.
        let learnt = nack.is_none() || source.avoid.len() > before || barred;
        let waits = source.waits && why.reason == Reject::NoRoom;
        note_refusal(source, path.to_vec(), why.clone());
        match &mut source.stage {
            Stage::Reserving(reserving) if learnt || waits => {
                let at = nack.and_then(|nack| path.iter().position(|peer| *peer == nack.at));
                reserving.held = path[1..=at.unwrap_or(0)].to_vec();
                reserving.next = now;
                true
            }
            Stage::OpeningEnd { .. } | Stage::Reserving(_) | Stage::Open | Stage::Moving(_) => {
                false
            }
        }
    }

    /// The path that is tried next, if there is another one.
    fn next_way(&self, source: &Source, tries: usize, paths: &dyn Paths) -> Option<Vec<PeerName>> {
        if tries >= limits::OPEN_TRIES {
            return None;
        }
        let Demand { to, choice, shun, .. } = source.demand();
        let allowed = |path: &Vec<PeerName>| source.avoid.allows(path) && clear_of(path, shun);
        let tree = || paths.path(to).filter(allowed);
        let widest = || {
            let relays: Vec<_> = source.avoid.relays().iter().chain(shun).cloned().collect();
            let wanted = wanted(source.demand(), source.avoid.links(), &relays);
            paths.widest(&Wanted { own: source.held(), ..wanted }).filter(allowed)
        };
        let leaves = |path: &Vec<PeerName>| path.iter().any(|on| on != to && paths.leaves(on));
        match choice {
            Choice::Tree => tree(),
            Choice::Widest => widest(),
            // A relay that leaves would refuse.
            Choice::TreeThenWidest => {
                tree().filter(|path| !leaves(path)).or_else(widest).or_else(tree)
            }
            Choice::Given(given) => Some(self.given(given)).filter(|_| tries == 0),
        }
    }

    pub(super) fn given(&self, given: &[PeerName]) -> Vec<PeerName> {
        std::iter::once(&self.me).chain(given).cloned().collect()
    }

    /// What one path of those that may be taken could carry if nothing were reserved: the exact bound
    /// between later and never.
    fn limit(&self, demand: Demand<'_>, paths: &dyn Paths) -> Option<Limit> {
        let path = match demand.choice {
            Choice::Given(given) => Some(self.given(given)),
            // Its narrowest link is that of the widest path, by capacity (2.8).
            _ if demand.shun.is_empty() => paths.path(demand.to),
            Choice::Tree => paths.path(demand.to).filter(|path| clear_of(path, demand.shun)),
            Choice::Widest | Choice::TreeThenWidest => {
                let any = demand.of_any_rate();
                paths.widest(&Wanted { idle: true, ..wanted(any, &[], demand.shun) })
            }
        }?;
        let narrow = paths.narrowest(&path)?;
        let session = paths.session()?;
        Some(Limit { width: narrow.capacity, link: narrow.by_capacity, session })
    }

    /// What would be answered, as far as it can be told from here; nothing is reserved.
    pub fn would_fit(&self, request: &FitRequest, paths: &dyn Paths) -> Result<Fit, Rejection> {
        let FitRequest { peer, rate, rate_back, choice, avoid } = request;
        let (rate, rate_back) = (*rate, *rate_back);
        let demand = Demand { to: peer, rate, rate_back, choice, shun: avoid };
        let limit = self.check_demand(demand, paths)?;
        let tree = || paths.path(peer).filter(|path| clear_of(path, avoid));
        let widest = || paths.widest(&wanted(demand, &[], avoid));
        let fits = |path: &Vec<PeerName>| {
            let narrow = paths.narrowest(path);
            narrow.is_some_and(|n| rate <= n.free && rate_back <= n.free_back)
        };
        let now = match choice {
            Choice::Tree => tree().filter(fits),
            Choice::Widest => widest(),
            Choice::TreeThenWidest => tree().filter(fits).or_else(widest),
            Choice::Given(given) => Some(self.given(given)).filter(fits),
        };
        let best = now.clone().or_else(|| match choice {
            Choice::Given(given) => Some(self.given(given)),
            Choice::Tree => tree(),
            // The one with the most free capacity, although it is too little.
            Choice::Widest | Choice::TreeThenWidest => {
                paths.widest(&wanted(demand.of_any_rate(), &[], avoid)).or_else(tree)
            }
        });
        let narrow = best.as_ref().and_then(|path| paths.narrowest(path));
        let fits = now.is_some();
        Ok(Fit { fits, path: best.unwrap_or_default(), narrow, limit })
    }

    /// What is answered at once, before anything is reserved or opened.
    pub(super) fn check_open(
        &self,
        request: &OpenRequest,
        paths: &dyn Paths,
    ) -> Result<Option<Limit>, Rejection> {
        let no = |reason, detail| Err(Rejection::new(reason, detail));
        if self.leaving {
            return no(Reject::ShuttingDown, format!("{} leaves the overlay", self.me));
        }
        if let Some((name, same)) =
            request.name.as_ref().and_then(|name| self.names.get_key_value(name))
        {
            let detail = format!("{same} has the name {name} already");
            return no(Reject::Duplicate, detail);
        }
        if self.channels() >= limits::CHANNELS_MAX {
            let detail = format!("{} has {} channels already", self.me, limits::CHANNELS_MAX);
            return no(Reject::Busy, detail);
        }
        let OpenRequest { peer, rate, rate_back, choice, avoid, .. } = request;
        let (rate, rate_back) = (*rate, *rate_back);
        self.check_demand(Demand { to: peer, rate, rate_back, choice, shun: avoid }, paths)
    }

    /// Known, reachable, and not more than a path could ever carry.
    fn check_demand(
        &self,
        demand: Demand<'_>,
        paths: &dyn Paths,
    ) -> Result<Option<Limit>, Rejection> {
        let Demand { to, choice, shun, rate, rate_back } = demand;
        let no = |reason, detail| Err(Rejection::new(reason, detail));
        if *to == self.me {
            return no(Reject::Duplicate, format!("source and destination are both {to}"));
        }
        if !paths.knows(to) {
            let detail = format!("no peer {to} is known; `spanway peers` lists them");
            return no(Reject::NoSuchPeer, detail);
        }
        if let Some(end) = shun.iter().find(|peer| *peer == to || **peer == self.me) {
            let detail = format!("{end} is an end of the channel and cannot be avoided");
            return no(Reject::NotAllowed, detail);
        }
        if let Choice::Given(given) = choice {
            let path = self.given(given);
            let peers: BTreeSet<_> = path.iter().collect();
            if path.last() != Some(to) {
                return no(Reject::NotAllowed, format!("the path does not end at {to}"));
            }
            if peers.len() != path.len() {
                return no(Reject::NotAllowed, "the path goes through a peer twice".into());
            }
            if !clear_of(&path, shun) {
                return no(Reject::NotAllowed, "the path crosses a peer to be avoided".into());
            }
        }
        let limit = self.limit(demand, paths);
        let asked = rate.max(rate_back);
        match &limit {
            Some(limit) if asked > limit.width => {
                let detail = format!("{asked} do not fit any path to {to}, ever: {limit}");
                let mut rejection = Rejection::new(Reject::Never, detail);
                rejection.explanation.limit = Some(limit.clone());
                Err(rejection)
            }
            Some(_) => Ok(limit),
            None if paths.path(to).is_none() || !shun.is_empty() => {
                no(Reject::Unreachable, format!("no path leads to {to} now"))
            }
            // The picture lags behind the tree; the hops know.
            None => Ok(None),
        }
    }
}

fn wanted<'a>(
    demand: Demand<'a>,
    without_links: &'a [(PeerName, PeerName)],
    without_relays: &'a [PeerName],
) -> Wanted<'a> {
    let Demand { to, rate, rate_back, .. } = demand;
    Wanted {
        to,
        rate,
        rate_back,
        max_payload: 0,
        own: &[],
        idle: false,
        without_links,
        without_relays,
    }
}

/// No relay of the path is to be avoided.
pub(super) fn clear_of(path: &[PeerName], shun: &[PeerName]) -> bool {
    !path.iter().any(|peer| shun.contains(peer))
}

/// By the picture some path has room now. Nobody tells a request of room beside the path it waits on.
pub(super) fn may_fit_elsewhere(source: &Source, paths: &dyn Paths) -> bool {
    let free = matches!(source.choice, Choice::Widest | Choice::TreeThenWidest);
    free && paths.widest(&wanted(source.demand(), &[], &source.shun)).is_some()
}

/// The widest path, although it may have too little room.
pub(super) fn widest_of_any_rate(source: &Source, paths: &dyn Paths) -> Option<Vec<PeerName>> {
    paths.widest(&wanted(source.demand().of_any_rate(), &[], &source.shun))
}

fn note_refusal(source: &mut Source, path: Vec<PeerName>, why: Rejection) {
    if let Stage::Reserving(reserving) = &mut source.stage {
        reserving.refused.push(Refused { path, why: why.detail.clone() });
        reserving.why = why;
    }
}
