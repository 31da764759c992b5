//! Channels that local clients ask for, close and keep.
//!
//! An extension of [`Control`]. A request is checked here, becomes one of the node, and its one answer is
//! told to everybody who waits for it. What is kept ([`Kept`](crate::daemon::kept::Kept)) is asked for in
//! the same way, with nobody to tell.

use std::time::Duration;

use crate::api::dto::{self, FailureKind};
use crate::api::server::Answers;
use crate::daemon::asks::{Asking, check_rates, choice};
use crate::daemon::control::Control;
use crate::daemon::ends::{self, EndPlan, NewEnd, OpenerAddresses};
use crate::daemon::idempotency::Seen;
use crate::daemon::kept::{Save, Then, not_kept};
use crate::daemon::views;
use crate::limits;
use crate::proto::{Input, OpenRequest, Opened, Request};
use crate::types::{ChannelId, RequestId, Time};

/// Who asked for a channel, and for what.
#[derive(Debug)]
pub(crate) struct Opener {
    client: u64,
    pub(super) answers: Answers,
    asked: dto::Open,
}

impl Opener {
    /// Nobody waits for the answer any more if this client went away.
    pub(super) fn left_by(&self, client: u64) -> bool {
        self.client == client && self.asked.idempotency_key.is_none()
    }
}

type Refused = (FailureKind, String);

fn usage(text: String) -> Refused {
    (FailureKind::Usage, text)
}

fn failed(text: String) -> Refused {
    (FailureKind::Failed, text)
}

impl Control {
    pub(super) fn open(&mut self, client: u64, open: dto::Open, answers: Answers) {
        let answers = match self.idempotency.look(self.now(), client, &open, answers) {
            Seen::New(answers) => answers,
            Seen::Again => return self.tell_again(client, &open),
            Seen::Wrong(answers, failure) => return answers.refused(failure),
        };
        match self.end_for(&open) {
            Ok(end) => {
                self.idempotency.asked(&open);
                let id = self.next_request();
                let opener = Opener { client, answers, asked: open.clone() };
                self.ask_open(id, Asking::Open(Box::new(opener)), open, end);
            }
            Err((kind, why)) => answers.failed(kind, why),
        }
    }

    /// Who asked for a channel, that it stands in line.
    pub(super) fn tell_standing(&self, channel: &ChannelId) {
        let waiting = self.node.waiting(self.now());
        let Some(view) = waiting.into_iter().find(|view| view.id == *channel) else { return };
        let Some(Asking::Open(opener)) = self.asking.get(&view.request) else { return };
        let key = opener.asked.idempotency_key.as_deref();
        let others = self.idempotency.waiting(key).map(|(_, answers)| answers);
        let row = views::queue_row(view);
        let told = others.chain([&opener.answers]).filter(|answers| answers.told());
        told.for_each(|answers| answers.ok(&row));
    }

    /// The same to a client that asks again under the same key meanwhile.
    fn tell_again(&self, client: u64, open: &dto::Open) {
        let is_same = |request: &RequestId| {
            let asking = self.asking.get(request);
            matches!(asking, Some(Asking::Open(opener)) if opener.asked == *open)
        };
        let waiting = self.node.waiting(self.now());
        let Some(view) = waiting.into_iter().find(|view| is_same(&view.request)) else { return };
        let mut clients = self.idempotency.waiting(open.idempotency_key.as_deref());
        if let Some((_, answers)) = clients.find(|(waiting, _)| *waiting == client)
            && answers.told()
        {
            answers.ok(&views::queue_row(view));
        }
    }

    /// The local end of a channel that may be asked for.
    fn end_for(&mut self, open: &dto::Open) -> Result<NewEnd, Refused> {
        let addresses = self.check_open(open).map_err(usage)?;
        if open.keep && self.engine.own_ends().is_some() {
            let text = "the program that is this peer keeps nothing: leave out keep";
            return Err(usage(text.to_owned()));
        }
        if self.engine.own_ends().is_none() {
            let plan = EndPlan::of_opener(&addresses).map_err(usage)?;
            self.room_for_end().map_err(failed)?;
            return plan.bind().map_err(failed);
        }
        if addresses != OpenerAddresses::default() {
            let text = "the program that is this peer sends and receives by itself: leave out \
                        listen, deliver, from and shape";
            return Err(usage(text.to_owned()));
        }
        Ok(NewEnd::Own)
    }

    fn check_open(&self, open: &dto::Open) -> Result<OpenerAddresses, String> {
        check_rates(open.bandwidth_bps, open.bandwidth_back_bps)?;
        if open.peer == self.config.name {
            return Err(format!(
                "source and destination are both {}: a channel leads to another peer",
                open.peer
            ));
        }
        let deadline = Duration::from_millis(open.deadline_ms);
        if deadline.is_zero() || deadline > limits::OPEN_DEADLINE_MAX {
            return Err(format!(
                "a deadline of {deadline:?} is not possible: 1 ms to {:?} are",
                limits::OPEN_DEADLINE_MAX
            ));
        }
        self.check_way(&open.path, &open.avoid, &open.peer)?;
        let from = open.from.as_deref().map(ends::parse_prefix).transpose()?;
        let dto::Open { listen, deliver, shape, .. } = *open;
        Ok(OpenerAddresses { listen, deliver, from, shape })
    }

    fn ask_open(&mut self, id: RequestId, asking: Asking, open: dto::Open, end: NewEnd) {
        let rate = open.bandwidth_bps;
        let request = Request::Open(OpenRequest {
            peer: open.peer,
            service: open.service,
            name: open.name,
            rate,
            rate_back: open.bandwidth_back_bps.unwrap_or_else(|| views::default_rate_back(rate)),
            choice: choice(open.path),
            avoid: open.avoid,
            deadline: Duration::from_millis(open.deadline_ms),
            wait: open.wait,
            protect: open.protect,
            plain: open.plain,
        });
        // The node opens the end while it handles the request, or not at all.
        self.channels.opening = Some(end);
        self.asking.insert(id, asking);
        self.feed(Input::Request { id, request });
        self.channels.opening = None;
    }

    /// The answer to a client is: it is open.
    pub(super) fn opened(&mut self, opener: Opener, opened: Opened) {
        let channel = opened.channel.clone();
        let here = self.channels.of(&channel).and_then(|here| here.end.as_ref());
        let listen = here.and_then(|end| end.listen);
        let neighbour = opened.path.get(1).and_then(|peer| self.neighbour_address(peer));
        let reply = views::open_reply(opened, opener.asked.bandwidth_bps, listen, neighbour);
        if let Some(story) = self.channels.story(&channel) {
            (story.refused, story.waited_ms) = (reply.refused.clone(), reply.waited_ms);
        }
        if opener.asked.keep {
            let named = self.node.channels().into_iter().find(|view| view.id == channel);
            let name = named.map(|view| view.name);
            let asked = dto::Open { name, listen, ..opener.asked.clone() };
            let kept = self.kept.keep(asked, channel);
            return self.tell(opener, reply, kept.map(|()| true));
        }
        self.tell(opener, reply, Ok(false));
    }

    /// Tells it to everybody who waits for it; if the channel is kept, once the disk knows.
    pub(super) fn tell(
        &mut self,
        opener: Opener,
        reply: dto::OpenReply,
        kept: Result<bool, String>,
    ) {
        let Opener { answers, asked, .. } = opener;
        let key = asked.idempotency_key.as_deref();
        let mut all = self.idempotency.answered(self.now(), key, &reply);
        all.push(answers);
        match kept {
            Ok(true) => self.save_kept(Then::Opened(all, Box::new(reply))),
            Ok(false) => all.iter().for_each(|answers| answers.ok(&reply)),
            Err(why) => all.iter().for_each(|answers| not_kept(answers, &reply, &why)),
        }
    }

    pub(super) fn close(&mut self, channel: &str, answers: Answers) {
        match self.channel_of(channel) {
            Ok(channel) if self.forget(&channel) => {
                self.ask(Asking::CloseKept(answers), Request::Close { channel });
            }
            Ok(channel) => self.ask(Asking::Plain(answers), Request::Close { channel }),
            // Not open at the moment, and from now on not asked for.
            Err(_) if self.kept.forget_named(channel) => self.save_kept(Then::Closed(answers)),
            Err(failure) => answers.refused(failure),
        }
    }

    /// Whether it was kept: it is not asked for from now on.
    fn forget(&mut self, channel: &ChannelId) -> bool {
        let find = || {
            let view = self.node.channels().into_iter().find(|view| view.id == *channel)?;
            Some((view.peer, view.name))
        };
        self.kept.forget(channel) || self.kept.forget_asked(find)
    }

    pub(super) fn save_kept(&self, then: Then) {
        // Its other end lives until this one is gone.
        let _ = self.saves.send(Save { bytes: self.kept.bytes(), then });
    }

    /// Asks for those kept channels whose time has come.
    pub(super) fn ask_for_kept(&mut self, now: Time) {
        let mut number = self.requests;
        let asked = self.kept.ask(now, || {
            number += 1;
            RequestId(number)
        });
        self.requests = number;
        for (id, open) in asked {
            match self.end_for(&open) {
                Ok(end) => self.ask_open(id, Asking::Kept, open, end),
                Err((_, why)) => self.kept.refused(now, id, &why),
            }
        }
    }
}
