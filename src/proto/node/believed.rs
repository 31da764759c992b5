//! Messages about channels: whose they are, before anything is done about them.

use super::Node;
use crate::proto::proof::{self, Unproven};
use crate::proto::{Action, Event};
use crate::types::{LinkId, PeerName, PublicKey, Time};
use crate::wire::control::Message;
use crate::wire::queue::{Queue, QueueBody};

impl Node {
    /// A message about a channel: believed if it is its owner's to say.
    pub(super) fn on_channel(
        &mut self,
        now: Time,
        id: LinkId,
        mut message: Message,
        out: &mut Vec<Action>,
    ) {
        let ends = proof::channel_of(&message).and_then(|channel| self.channels.ends_of(channel));
        let known = |peer: &PeerName| self.graph.key_of(peer);
        let Err(unproven) = self.proofs.judge(now, &mut message, ends.as_ref(), known) else {
            let asker = self.asker_of(&message);
            return self.channels.message_from(now, id, (message, asker), out);
        };
        let Unproven { channel, what, why } = unproven;
        let peer = self.links[&id].config().peer.clone();
        if let Message::Reserve(reserve) = message {
            let unsigned = self.channels.speaks_proof(id).err();
            let detail = unsigned.unwrap_or_else(|| format!("from {peer}: {why}"));
            self.channels.refuse(id, reserve.tx, detail, out);
        }
        out.push(Action::Event(Event::Unproven { peer, channel, what, why }));
    }

    /// The key of who asks for something that rules may be about: the one that signed it, or the one that is
    /// known.
    fn asker_of(&self, message: &Message) -> Option<PublicKey> {
        let (asker, proof) = if let Message::Reserve(reserve) = message {
            (&reserve.tx.channel.source, reserve.proof)
        } else if let Message::Queue(Queue { tx, body: QueueBody::Claim(claim) }) = message {
            (&tx.channel.source, claim.proof)
        } else {
            return None;
        };
        proof.map(|proof| proof.key).or_else(|| self.graph.key_of(asker))
    }
}
