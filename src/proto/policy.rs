//! Who may open channels that end here or cross this peer, and how much of it each may have (`[[allow]]`).
//!
//! ```text
//!  RESERVE of c, 5 Mbit/s, crosses here
//!     rule 1  peers b         to video     does not fit
//!     rule 2  peers *         through      fits: its limits decide, later rules are not looked at
//!     (none fits: refused; no rules at all: everything is allowed)
//! ```
//!
//! A rule counts for each peer what that peer has by this rule. A channel counts once, however many of its
//! paths are here, with the larger of its two directions. Requests of this peer's own people are
//! not asked about.
//!
//! Pure, and told nothing of paths or links. Whoever lets a channel in calls [`Policy::take`],
//! whoever ends it [`Policy::forget`].

use std::collections::BTreeMap;
use std::fmt;

use crate::types::{Bandwidth, ChannelId, PeerName, PublicKey, ServiceName, TxId};

/// One `[[allow]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Whose channels it is about.
    pub peers: Vec<Who>,
    /// Services here that it lets them open.
    pub to: Vec<Which>,
    /// It lets them cross this peer.
    pub through: bool,
    /// Most of one channel.
    pub rate: Option<Bandwidth>,
    /// Most of all channels of one peer together.
    pub total: Option<Bandwidth>,
    /// Most channels of one peer at a time.
    pub channels: Option<u32>,
    /// Most requests of one peer that wait here for room.
    pub requests: Option<u32>,
    /// Most of all channels of all these peers together.
    pub everybody: Option<Bandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Anybody,
    Name(PeerName),
    Key(PublicKey),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Any,
    Service(ServiceName),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("*"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Key(key) => write!(f, "{key}"),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Service(name) => write!(f, "{name}"),
        }
    }
}

/// Who asks, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub tx: &'a TxId,
    /// Of who asked, if it is known.
    pub key: Option<PublicKey>,
    /// It ends here, at this service; without one it crosses.
    pub service: Option<&'a ServiceName>,
    /// The larger direction.
    pub rate: Bandwidth,
}

impl Asked<'_> {
    fn source(&self) -> &PeerName {
        &self.tx.channel.source
    }
}

/// What kind of limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    NoRule,
    Rate,
    Total,
    Channels,
    Requests,
    Everybody,
}

impl Limit {
    pub const ALL: [Self; 6] =
        [Self::NoRule, Self::Rate, Self::Total, Self::Channels, Self::Requests, Self::Everybody];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Channels => "channels",
            Self::Requests => "requests",
            Self::Everybody => "everybody",
        }
    }
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub limit: Limit,
    /// Names the rule and the limit, for who asked.
    pub words: String,
    /// From 0.
    rule: Option<usize>,
}

/// What one peer has by one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub channels: u32,
    pub rate: Bandwidth,
}

/// What a rule lets in at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleUse {
    pub peers: BTreeMap<PeerName, Use>,
    pub rate: Bandwidth,
    /// Since the rules were read.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    rule: usize,
    rate: Bandwidth,
}

/// The rules and what they let in.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    uses: Vec<RuleUse>,
    /// Empty while there are no rules.
    taken: BTreeMap<TxId, Taken>,
    refused: BTreeMap<Limit, u64>,
}

impl Policy {
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Of each rule, in their order.
    pub fn uses(&self) -> &[RuleUse] {
        &self.uses
    }

    /// Since this peer started.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused.get(&limit).copied().unwrap_or(0)
    }

    /// Other rules; nothing is let in by them yet.
    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        self.uses = vec![RuleUse::default(); rules.len()];
        self.rules = rules;
        self.taken.clear();
    }

    /// Whether it may be let in; what was refused is counted.
    pub fn check(&mut self, asked: Asked<'_>) -> Result<(), Denied> {
        let judged = self.judge(asked);
        self.count(judged.map(drop))
    }

    /// Lets it in, if it may be.
    pub fn take(&mut self, asked: Asked<'_>) -> Result<(), Denied> {
        let Some(rule) = self.judge(asked)? else { return Ok(()) };
        let before = self.of_channel(&asked.tx.channel);
        self.taken.insert(asked.tx.clone(), Taken { rule, rate: asked.rate });
        self.changed(asked.source(), rule, before, self.of_channel(&asked.tx.channel));
        Ok(())
    }

    /// It ended, or did not come about.
    pub fn forget(&mut self, tx: &TxId) {
        let before = self.of_channel(&tx.channel);
        if let Some(Taken { rule, .. }) = self.taken.remove(tx) {
            self.changed(&tx.channel.source, rule, before, self.of_channel(&tx.channel));
        }
    }

    /// Whether a request that waits for room may do so here, beside `waiting` others of its asker.
    /// At the end of its path (`ends`) any service that its asker may open will do: a claim names none.
    pub fn check_claim(
        &mut self,
        source: &PeerName,
        key: Option<PublicKey>,
        ends: bool,
        (rate, waiting): (Bandwidth, usize),
    ) -> Result<(), Denied> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let fits = |rule: &Rule| {
            let place = if ends { !rule.to.is_empty() } else { rule.through };
            rule.is_about(source, key) && place
        };
        let judged = match self.rules.iter().position(fits) {
            None if ends => Err(denied(
                None,
                Limit::NoRule,
                format!("no [[allow]] here lets {source} open channels to this peer"),
            )),
            None => Err(no_way_through(source)),
            Some(at) => self.judge_claim(at, source, rate, waiting),
        };
        self.count(judged)
    }

    fn judge_claim(
        &self,
        at: usize,
        source: &PeerName,
        rate: Bandwidth,
        waiting: usize,
    ) -> Result<(), Denied> {
        let rule = &self.rules[at];
        too_fast(at, rule, rate)?;
        match rule.requests.filter(|most| waiting >= *most as usize) {
            None => Ok(()),
            Some(most) => {
                let words =
                    format!("lets {source} have {most} requests wait here, and so many do already");
                Err(denied(Some(at), Limit::Requests, words))
            }
        }
    }

    /// By which rule it may be let in; none if there are no rules.
    fn judge(&self, asked: Asked<'_>) -> Result<Option<usize>, Denied> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let source = asked.source();
        let before = self.of_channel(&asked.tx.channel);
        // Another path of it is here: what let that in lets this in, too.
        let fits = |rule: &Rule| rule.is_about(source, asked.key) && rule.covers(asked.service);
        let found = before.map(|taken| taken.rule).or_else(|| self.rules.iter().position(fits));
        let Some(at) = found else {
            return Err(match asked.service {
                None => no_way_through(source),
                Some(service) => denied(
                    None,
                    Limit::NoRule,
                    format!("no [[allow]] here lets {source} open channels to {service}"),
                ),
            });
        };
        let rule = &self.rules[at];
        too_fast(at, rule, asked.rate)?;
        let more = asked.rate.saturating_sub(before.map_or(Bandwidth::ZERO, |taken| taken.rate));
        let use_of = self.uses[at].peers.get(source).copied().unwrap_or_default();
        if let Some(most) =
            rule.channels.filter(|most| before.is_none() && use_of.channels >= *most)
        {
            let words = format!("lets {source} have {most} channels at a time, and it has them");
            return Err(denied(Some(at), Limit::Channels, words));
        }
        let over = |used: Bandwidth, most: &Bandwidth| {
            more > Bandwidth::ZERO && used.checked_add(more).is_none_or(|sum| sum > *most)
        };
        let rate = asked.rate;
        if let Some(most) = rule.total.filter(|most| over(use_of.rate, most)) {
            let free = most.saturating_sub(use_of.rate);
            let words = format!(
                "lets all channels of {source} have {most} together, of which {free} are left: {rate} are too much"
            );
            return Err(denied(Some(at), Limit::Total, words));
        }
        if let Some(most) = rule.everybody.filter(|most| over(self.uses[at].rate, most)) {
            let free = most.saturating_sub(self.uses[at].rate);
            let words = format!(
                "lets everybody together have {most}, of which {free} are left: {rate} are too much"
            );
            return Err(denied(Some(at), Limit::Everybody, words));
        }
        Ok(Some(at))
    }

    /// What all paths of a channel that are here count as.
    fn of_channel(&self, channel: &ChannelId) -> Option<Taken> {
        let first = TxId { channel: channel.clone(), attempt: 0 };
        let all = self.taken.range(first..).take_while(|(tx, _)| tx.channel == *channel);
        all.map(|(_, taken)| *taken).max_by_key(|taken| taken.rate)
    }

    fn changed(
        &mut self,
        source: &PeerName,
        rule: usize,
        before: Option<Taken>,
        after: Option<Taken>,
    ) {
        let rate = |taken: Option<Taken>| taken.map_or(Bandwidth::ZERO, |taken| taken.rate);
        let moved = |sum: Bandwidth| {
            let sum = sum.saturating_sub(rate(before)).checked_add(rate(after));
            sum.expect("channels are bounded, and so are rates")
        };
        let of_rule = &mut self.uses[rule];
        of_rule.rate = moved(of_rule.rate);
        let of_peer = of_rule.peers.entry(source.clone()).or_default();
        of_peer.rate = moved(of_peer.rate);
        of_peer.channels += u32::from(after.is_some());
        of_peer.channels -= u32::from(before.is_some());
        if of_peer.channels == 0 {
            of_rule.peers.remove(source);
        }
    }

    fn count(&mut self, judged: Result<(), Denied>) -> Result<(), Denied> {
        if let Err(Denied { limit, rule, .. }) = &judged {
            *self.refused.entry(*limit).or_default() += 1;
            if let Some(rule) = rule {
                self.uses[*rule].refused += 1;
            }
        }
        judged
    }

    /// How many are let in, and whether this one is.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    pub fn knows(&self, tx: &TxId) -> bool {
        self.taken.contains_key(tx)
    }

    /// Panics if what is counted is not what was let in, or more than a rule allows.
    pub fn invariants(&self) {
        let mut uses = vec![RuleUse::default(); self.rules.len()];
        let mut last = None;
        for tx in self.taken.keys().filter(|tx| last.replace(&tx.channel) != Some(&tx.channel)) {
            let Taken { rule, rate } = self.of_channel(&tx.channel).expect("just seen");
            let add = |sum: Bandwidth| sum.checked_add(rate).expect("bounded");
            let of_peer = uses[rule].peers.entry(tx.channel.source.clone()).or_default();
            (of_peer.channels, of_peer.rate) = (of_peer.channels + 1, add(of_peer.rate));
            uses[rule].rate = add(uses[rule].rate);
        }
        for ((counted, of), rule) in uses.iter().zip(&self.uses).zip(&self.rules) {
            assert_eq!((&counted.peers, counted.rate), (&of.peers, of.rate));
            assert!(rule.everybody.is_none_or(|most| of.rate <= most), "{rule:?}: {of:?}");
            for of in of.peers.values() {
                assert!(rule.total.is_none_or(|most| of.rate <= most), "{rule:?}: {of:?}");
                assert!(rule.channels.is_none_or(|most| of.channels <= most), "{rule:?}: {of:?}");
            }
        }
    }
}

impl Rule {
    fn is_about(&self, peer: &PeerName, key: Option<PublicKey>) -> bool {
        self.peers.iter().any(|who| match who {
            Who::Anybody => true,
            Who::Name(name) => name == peer,
            Who::Key(of) => key == Some(*of),
        })
    }

    fn covers(&self, service: Option<&ServiceName>) -> bool {
        let Some(service) = service else { return self.through };
        self.to.iter().any(|which| match which {
            Which::Any => true,
            Which::Service(name) => name == service,
        })
    }
}

fn too_fast(at: usize, rule: &Rule, rate: Bandwidth) -> Result<(), Denied> {
    match rule.rate.filter(|most| rate > *most) {
        None => Ok(()),
        Some(most) => {
            let words = format!("lets a channel have at most {most}: {rate} are too much");
            Err(denied(Some(at), Limit::Rate, words))
        }
    }
}

fn no_way_through(source: &PeerName) -> Denied {
    let words = format!("no [[allow]] here lets channels of {source} cross this peer");
    denied(None, Limit::NoRule, words)
}

fn denied(rule: Option<usize>, limit: Limit, words: String) -> Denied {
    let words = match rule {
        None => words,
        Some(at) => format!("rule {} of [[allow]] {words}", at + 1),
    };
    Denied { limit, words, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).expect("a name")
    }

    fn service(text: &str) -> ServiceName {
        ServiceName::new(text).expect("a name")
    }

    fn mbit(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate * 1_000_000)
    }

    fn tx(source: &str, count: u64, attempt: u32) -> TxId {
        TxId { channel: ChannelId { source: name(source), boot: 1, count }, attempt }
    }

    fn rule(peers: &[&str]) -> Rule {
        let who = |text: &&str| match *text {
            "*" => Who::Anybody,
            text => Who::Name(name(text)),
        };
        Rule { peers: peers.iter().map(who).collect(), ..Rule::default() }
    }

    fn policy(rules: &[Rule]) -> Policy {
        let mut policy = Policy::default();
        policy.set_rules(rules.to_vec());
        policy
    }

    fn ask(
        policy: &mut Policy,
        tx: &TxId,
        to: Option<&str>,
        rate: u64,
    ) -> Result<(), (Limit, String)> {
        let service = to.map(service);
        let asked = Asked { tx, key: None, service: service.as_ref(), rate: mbit(rate) };
        let checked = policy.check(asked);
        let taken = policy.take(asked);
        assert_eq!(checked, taken);
        policy.invariants();
        taken.map_err(|denied| (denied.limit, denied.words))
    }

    #[test]
    fn without_rules_everything_is_allowed_and_nothing_is_counted() {
        let mut policy = policy(&[]);
        assert_eq!(ask(&mut policy, &tx("b", 1, 1), None, 9_999), Ok(()));
        assert!(policy.taken.is_empty());
        let claim = policy.check_claim(&name("b"), None, true, (mbit(9), 999));
        assert_eq!(claim, Ok(()));
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_what_none_fits_is_refused() {
        let video = || vec![Which::Service(service("video"))];
        let mut policy = policy(&[
            Rule { to: video(), rate: Some(mbit(2)), ..rule(&["b"]) },
            Rule { to: vec![Which::Any], through: true, ..rule(&["b", "c"]) },
            Rule { to: video(), ..rule(&["*"]) },
        ]);
        let said = ask(&mut policy, &tx("b", 1, 0), Some("video"), 3).expect_err("too fast");
        assert_eq!(said.0, Limit::Rate, "the second rule would let it in");
        assert_eq!(
            said.1,
            "rule 1 of [[allow]] lets a channel have at most 2 Mbit/s: 3 Mbit/s are too much"
        );
        assert_eq!(ask(&mut policy, &tx("b", 1, 0), Some("video"), 2), Ok(()));
        assert_eq!(ask(&mut policy, &tx("b", 2, 0), Some("inbox"), 3), Ok(()));
        assert_eq!(ask(&mut policy, &tx("b", 3, 1), None, 3), Ok(()));
        assert_eq!(ask(&mut policy, &tx("d", 1, 0), Some("video"), 3), Ok(()));
        let said = ask(&mut policy, &tx("d", 2, 0), Some("inbox"), 3).expect_err("no rule");
        assert_eq!(said.1, "no [[allow]] here lets d open channels to inbox");
        let said = ask(&mut policy, &tx("d", 3, 1), None, 3).expect_err("no rule");
        assert_eq!(said.1, "no [[allow]] here lets channels of d cross this peer");
        assert_eq!((policy.refused(Limit::NoRule), policy.refused(Limit::Rate)), (2, 1));
        assert_eq!(policy.uses()[0].refused, 1);
    }

    #[test]
    fn a_key_is_as_good_as_the_name_it_belongs_to() {
        let key = PublicKey([7; 32]);
        let by_key = Rule { peers: vec![Who::Key(key)], through: true, ..Rule::default() };
        let mut policy = policy(&[by_key]);
        let of = tx("b", 1, 1);
        let asked = |key| Asked { tx: &of, key, service: None, rate: mbit(1) };
        for unknown in [None, Some(PublicKey([8; 32]))] {
            assert!(policy.take(asked(unknown)).is_err());
        }
        assert_eq!(policy.take(asked(Some(key))), Ok(()));
    }

    #[test]
    fn totals_and_numbers_are_of_each_peer_and_everybody_is_all_of_them() {
        let mut policy = policy(&[Rule {
            through: true,
            total: Some(mbit(10)),
            channels: Some(2),
            everybody: Some(mbit(15)),
            ..rule(&["*"])
        }]);
        assert_eq!(ask(&mut policy, &tx("b", 1, 1), None, 6), Ok(()));
        let said = ask(&mut policy, &tx("b", 2, 1), None, 5).expect_err("11 Mbit/s");
        assert_eq!(said.0, Limit::Total);
        assert!(
            said.1.contains("have 10 Mbit/s together, of which 4 Mbit/s are left"),
            "{}",
            said.1
        );
        assert_eq!(ask(&mut policy, &tx("b", 2, 1), None, 4), Ok(()));
        let said = ask(&mut policy, &tx("b", 3, 1), None, 0).expect_err("a third one");
        assert_eq!(
            said,
            (
                Limit::Channels,
                "rule 1 of [[allow]] lets b have 2 channels at a time, and it has them".to_owned()
            )
        );
        let said = ask(&mut policy, &tx("c", 1, 1), None, 6).expect_err("16 Mbit/s of all");
        assert_eq!(said.0, Limit::Everybody);
        assert_eq!(ask(&mut policy, &tx("c", 1, 1), None, 5), Ok(()));
        policy.forget(&tx("b", 1, 1));
        policy.invariants();
        assert_eq!(ask(&mut policy, &tx("c", 2, 1), None, 5), Ok(()));
        policy.forget(&tx("b", 2, 1));
        assert!(!policy.uses()[0].peers.contains_key(&name("b")));
        policy.forget(&tx("b", 2, 1));
        policy.invariants();
    }

    #[test]
    fn paths_of_one_channel_count_once_and_one_more_is_never_too_much() {
        let mut policy = policy(&[Rule {
            through: true,
            total: Some(mbit(5)),
            channels: Some(1),
            ..rule(&["*"])
        }]);
        assert_eq!(ask(&mut policy, &tx("b", 1, 1), None, 5), Ok(()));
        assert_eq!(ask(&mut policy, &tx("b", 1, 2), None, 5), Ok(()));
        assert_eq!(policy.uses()[0].rate, mbit(5));
        assert!(ask(&mut policy, &tx("b", 1, 3), None, 6).is_err(), "a larger one is");
        policy.forget(&tx("b", 1, 1));
        policy.invariants();
        assert_eq!(policy.uses()[0].rate, mbit(5));
        policy.forget(&tx("b", 1, 2));
        assert_eq!(policy.uses()[0], RuleUse { refused: 1, ..RuleUse::default() });
    }

    #[test]
    fn requests_that_wait_have_a_number_and_need_a_rule_too() {
        let mut policy = policy(&[
            Rule { through: true, requests: Some(2), rate: Some(mbit(5)), ..rule(&["b"]) },
            Rule { to: vec![Which::Any], ..rule(&["c"]) },
        ]);
        let mut claim = |peer: &str, ends, rate, waiting| {
            let judged = policy.check_claim(&name(peer), None, ends, (mbit(rate), waiting));
            judged.map_err(|denied| denied.limit)
        };
        assert_eq!(claim("b", false, 5, 1), Ok(()));
        assert_eq!(claim("b", false, 5, 2), Err(Limit::Requests));
        assert_eq!(claim("b", false, 6, 0), Err(Limit::Rate));
        assert_eq!(claim("b", true, 5, 0), Err(Limit::NoRule));
        assert_eq!(claim("c", true, 5, 99), Ok(()));
        assert_eq!(claim("c", false, 5, 0), Err(Limit::NoRule));
    }
}
