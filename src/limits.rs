//! Every bound of the system, each with where it comes from. Relations between them are asserted at
//! compile time, at the end of the file.
//!
//! "spec" is the control-plane specification, "measured" the data-plane measurements (both summed up
//! in ARCHITECTURE.md).

use std::time::Duration;

// --- Names and the overlay ---

/// Longest name of a peer, service or channel: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;
/// Links of one peer (spec, decision 6).
pub const LINKS_MAX: usize = 1_024;
/// Peers of one component that a tree is computed for (spec, decision 6).
pub const PEERS_MAX: usize = 10_000;
/// Services of one peer: guess; a person names them by hand.
pub const SERVICES_MAX: usize = 128;
/// A configuration file: `LINKS_MAX` links of at most 300 bytes each, and as much for comments.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Peers on one path, ends included: the hop limit of a frame bounds it anyway.
pub const PATH_PEERS_MAX: usize = 64;
/// Channels that end at or cross one peer: the largest load of the test plan, four times over.
pub const CHANNELS_MAX: usize = 40_000;

// --- Capacity ---

/// Least share of a link that channels cannot have: control traffic needs it (spec, decision 2).
pub const CONTROL_SHARE_BPS_MIN: u64 = 64_000;
/// Least default rate back of a channel; above it 2 % of the forward rate (A11).
pub const BANDWIDTH_BACK_BPS_MIN: u64 = 64_000;

// --- Frames ---

/// Hops a frame may still take when it enters (spec 2.7).
pub const HOP_LIMIT_START: u8 = 64;
/// Largest UDP payload over IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Default `[[link]] mtu`: Ethernet.
pub const MTU_DEFAULT: u16 = 1_500;
/// Least `[[link]] mtu`: every IPv6 path carries it (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1_280;
/// Socket receive buffer asked for: about 1 ms at 250,000 frames/s fills 208 KiB (measured), so 4 MiB.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Workers of one peer: the byte of a label that names one.
pub const WORKERS_MAX: usize = 64;
/// Largest number of a CPU: the kernel's `CPU_SETSIZE` less one.
pub const CPU_NUMBER_MAX: u64 = 1_023;
/// Buffers of one worker; see the sum at `engine::pool`. A power of two: io_uring's buffer ring.
pub const BUFFERS_PER_WORKER: u16 = 512;
/// Buffers the kernel may fill at a time, and that have memory from the start. With all 512 a relay of
/// 50,000 frames/s in bursts of 32 costs 1.2 to 1.3 times the CPU (measured): its working set leaves
/// the second-level cache, and a first touch of a page costs 13 us in a virtual machine.
pub const LENT_MAX: u16 = 64;
/// Datagrams a worker takes at once: 64 to a socket (measured: more brings nothing), four sockets.
pub const BATCH_MAX: usize = 256;
/// Datagrams of one receive call at one socket (measured: the best of 16 to 256).
pub const RECEIVE_MAX: usize = 64;
/// Buffers on their way from the other workers to one worker; each holds up to 128 segments, and all
/// buffers of another worker may be on their way at once.
pub const INBOX_MAX: usize = 512;
/// Buffers from other workers that a worker takes between two batches, so that its own do not wait.
pub const PASSED_PER_TURN: usize = 64;
/// Channels on their way to one worker: they come one by one, on the control thread's word.
pub const ARRIVING_MAX: usize = 16;
/// Frames of one send with segmentation offload: what every kernel since 4.18 takes (6.9 takes 128).
pub const RUN_SEGMENTS_MAX: u16 = 64;
/// Bytes of one such send, so that IPv4 and UDP headers and 20 bytes of options fit into 65,535.
pub const RUN_BYTES_MAX: u32 = 65_487;
/// Sends of one submission; more go in a second one. Twice what one batch needs if nothing merges.
pub const RUNS_MAX: usize = 2 * BATCH_MAX;
/// Pieces of buffers of one submission: 64 KiB of I/O vectors, 16 for each datagram of a full batch.
pub const PIECES_MAX: usize = 16 * BATCH_MAX;
/// Changes of channel within the runs of one submission: 64 KiB, 8 for each datagram of a full batch.
pub const NOTES_MAX: usize = 8 * BATCH_MAX;
/// Destinations that are remembered to take no segmentation offload; the oldest goes first, and finds
/// out again at the price of one refused send.
pub const GSO_OFF_MAX: usize = 64;
/// Commands on their way to one worker; more wait in order on the control side.
pub const COMMANDS_MAX: usize = 1_024;
/// Commands a worker applies between two batches: about 0.1 ms, so that frames do not wait for them.
pub const COMMANDS_PER_TURN: u64 = 64;
/// Events on their way from one worker: two for each link it may have.
pub const EVENTS_MAX: usize = 2 * LINKS_MAX;
/// An address in use is tried again for this long: a ring's teardown lets go of its sockets later.
pub const BIND_RETRY: Duration = Duration::from_secs(2);
/// A new link is not judged before this, unless the neighbour was heard earlier.
pub const LINK_GRACE: Duration = Duration::from_secs(1);
/// Heartbeats due within this are sent together, so that many links cost few wake-ups.
pub const HEARTBEAT_TICK: Duration = Duration::from_millis(1);
/// A socket whose kernel buffer overflowed within this is overloaded: heartbeats may have been dropped.
pub const OVERLOAD_MEMORY: Duration = Duration::from_secs(1);
/// So many times the allowed silence passes before a link dies while an end of it is overloaded: 40
/// heartbeats by default, all of which are lost once in 10^12 at twice the load a worker can carry.
pub const OVERLOAD_PATIENCE: u32 = 8;
/// Full batches in a row after which links are judged although more waits in the sockets.
pub const JUDGE_AFTER_BATCHES: u32 = 64;
/// Failed receives in a row after which a socket is given up.
pub const RECEIVE_ERRORS_MAX: u32 = 16;
/// Turns on its CPU that a worker asks for: the shortest the kernel grants, so that a frame that comes
/// goes before control work that runs (`perf/lanes`).
pub const WORKER_SLICE: Duration = Duration::from_micros(100);
/// Turns on its CPU that the control thread asks for: long against a worker's.
pub const CONTROL_SLICE: Duration = Duration::from_millis(10);
/// UDP ports one peer keeps from its listen port upwards: `init` puts peers this far apart.
pub const PORTS_PER_PEER: u16 = 16;

/// Frames behind the newest one that still count if they come late, once each: WireGuard's window. A
/// multiple of 64.
pub const REPLAY_FRAMES: u64 = 8_192;

// --- Seals ---

/// Frames that are sealed with one key before the next one is taken: AES-GCM allows 2^32, QUIC takes 2^23.
pub const SEAL_FRAMES_MAX: u64 = 1 << 20;
/// How long a key seals before the next one is taken, if anything is sent: WireGuard's time.
pub const SEAL_KEY_LIFE: Duration = Duration::from_secs(120);
/// Keys ahead that a receiver looks for: so many in a row may have been lost with every frame they sealed.
/// Only one frame a batch may make it look further than to the next one.
pub const SEAL_AHEAD_MAX: u32 = 64;
/// A request whose far end's key is not known yet looks again after this.
pub const SEAL_KEY_LOOK: Duration = Duration::from_millis(50);
/// Bytes of one message of the handshake in which two ends agree on keys.
pub const SEAL_MESSAGE_BYTES_MAX: usize = 128;

// --- Two paths of one channel ---

/// Frames of one channel end that wait for those of the path before (spec 2.9, rule 7): at 8,000 frames
/// a second half a second of them, which is longer than an old path is kept.
pub const MERGE_FRAMES_MAX: u32 = 4_096;
/// ... and of all ends of one worker: a relay that dies moves many channels at once, say a hundred
/// with 1,000 frames a second each, 160 ms of them.
pub const MERGE_WORKER_FRAMES_MAX: u32 = 4 * MERGE_FRAMES_MAX;
/// Waiting frames lie in blocks of this size: one of Ethernet's largest takes three.
pub const BLOCK_BYTES: usize = 512;
/// Three for each frame: 24 MiB of a worker, of which only what was used once has memory; and as much
/// again for frames of shaped channels.
pub const BLOCKS_MAX: u16 = 49_152;
/// Waiting frames of an end that one with a lower sequence is put in front of: a path keeps the order
/// but for a few. More is searching that a sender could make long.
pub const MERGE_REORDERED_MAX: u32 = 64;

// --- Policing (spec, decision 11) ---

/// Burst a channel may enter with: this much of its rate ...
pub const POLICE_BURST: Duration = Duration::from_millis(50);
/// ... and never less than this; the largest IP packet fits (asserted below).
pub const POLICE_BURST_BYTES_MIN: u64 = 64 << 10;
/// Added to the burst with every hop: what may wait there and then come at once.
pub const POLICE_SLACK_BYTES: u64 = 64 << 10;
/// Behind the entry the rate is larger by one part in this many (2 %): clocks differ.
pub const POLICE_SLACK_RATE: u64 = 50;
/// Longest a frame of a shaped channel waits at its entry: a burst of a channel that is not shaped, and
/// 64 KiB, pass. More would be a delay that live streams have no use for.
pub const SHAPE_DELAY_MAX: Duration = POLICE_BURST;
/// Frames of one channel that wait at its entry: 50 ms of 80,000 a second, about 1 Gbit/s in frames of
/// 1,500 bytes. A channel of more frames than that waits for less than 50 ms before it drops.
pub const SHAPE_FRAMES_MAX: u32 = 4_096;
/// ... and of all channels of one worker: four such, or hundreds of 20 Mbit/s.
pub const SHAPE_WORKER_FRAMES_MAX: usize = 4 * SHAPE_FRAMES_MAX as usize;
/// Frames that become due within this leave together: at most 4,000 wake-ups a second, and a delay that
/// nobody who asked for up to 50 ms notices.
pub const SHAPE_TICK: Duration = Duration::from_micros(250);

/// How often the daemon looks at what enters its channels: a drop is told at the second look behind it
/// at the latest, which is within a second. Three of them are the time between two lines.
pub const ENTRY_LOOK: Duration = Duration::from_millis(334);
/// The drops of one channel are told at most this often.
pub const ENTRY_TELL: Duration = Duration::from_secs(1);

// --- Control messages ---

/// Largest control message: spec, decision 6 (16 KiB of content) and room for its fixed fields.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Bytes waiting to be sent on one link; more closes the link, nothing buffers without bound. The
/// COMMIT of the largest tree with the longest names fits (asserted below).
pub const SEND_QUEUE_BYTES_MAX: usize = 2 << 20;
/// Edges of one MEMBERS or COMMIT piece: two names and a capacity each, below the message bound.
pub const EDGES_PER_PIECE: usize = 100;
/// Transactions of one REFRESH: a transaction id is at most 92 bytes.
pub const REFRESH_TXS_MAX: usize = 128;
/// Links of one piece of an answer to "which links do you have?".
pub const LINKS_PER_PIECE: usize = 100;
/// Steps that a peer takes down of one tree computation: some 14 levels, three steps each, and the
/// branches of a peer with many.
pub const COURSE_STEPS_MAX: usize = 64;
/// Steps beside the links of one such piece: 208 bytes each at most (asserted below).
pub const STEPS_PER_PIECE: usize = 20;
/// Steps that are collected of all peers together: 20 each of 10,000 peers, 40 MB of JSON.
pub const COURSES_STEPS_MAX: usize = 20 * PEERS_MAX;
/// Bytes of a text for people inside a message.
pub const DETAIL_BYTES_MAX: usize = 1 << 10;

// --- Sessions (spec 2.7) ---

/// A neighbour that does not answer START within this is cut off (rule 2).
pub const START_ANSWER_MAX: Duration = Duration::from_secs(2);
/// First wait between an event and the session it starts, random between the two (rule 8).
pub const THROTTLE_FIRST: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(50));
/// Longest wait between sessions, reached by doubling (rule 8).
pub const THROTTLE_MAX: Duration = Duration::from_secs(5);
/// Sessions closer together than this double the wait; as long without one resets it (rule 8).
pub const THROTTLE_WINDOW: Duration = Duration::from_secs(10);
/// A capacity that changed by less than this much of what its tree was computed with ...
pub const CAPACITY_CHANGE_PERCENT: u64 = 10;
/// ... starts a session this much later (spec 2.10, hysteresis): a capacity that flutters costs one
/// session in this time.
pub const CAPACITY_CHANGE_WAIT: Duration = Duration::from_secs(30);
/// A session that is not committed after this is started again (rule 9).
pub const WATCHDOG_MIN: Duration = Duration::from_secs(2);
/// Highest GHS level; log2 of the largest overlay is 14 (spec 2.4).
pub const LEVEL_MAX: u8 = 64;
/// Session counters may run ahead of ours by this much at once ... (spec, decision 8)
pub const COUNTER_AHEAD_MAX: u64 = 1 << 20;
/// ... and by this much more for every minute of uptime.
pub const COUNTER_AHEAD_PER_MINUTE: u64 = 1 << 20;
/// A counter that a neighbour names in its Hello is exempt up to here: guess, above any honest one
/// (one session a microsecond for 100,000 years) and far from the end of the numbers.
pub const COUNTER_GREETED_MAX: u64 = 1 << 62;
/// A session that missed its watchdog doubles the next one's time at most this often: 2 s to 17 min.
pub const WATCHDOG_DOUBLINGS_MAX: u32 = 9;
/// New sessions of one initiator closer together than this are coalesced (rule 7).
pub const SESSION_INTERVAL_MIN: Duration = Duration::from_millis(200);

// --- The picture of the overlay (spec, decision 9) ---

/// Facts of one FACTS: a link fact with its age is at most 256 bytes.
pub const FACTS_PER_MESSAGE: usize = 60;
/// Origins of one GRAPH_SUMMARY: a name and two numbers each.
pub const ORIGINS_PER_SUMMARY: usize = 200;
/// Highest version of a fact: guess, above any honest one (one a microsecond for 100,000 years).
pub const FACT_VERSION_MAX: u64 = 1 << 62;
/// A life counts its versions from anywhere below this: two lives of a peer hardly ever meet at one
/// version, and nobody comes near the highest.
pub const FIRST_VERSION_MAX: u64 = 1 << 48;
/// A peer that was not heard of for this long is gone, with all that it said (spec 2.9 rule 4 has the
/// same time for what is dead) ...
pub const FACT_LIFE: Duration = Duration::from_secs(60);
/// ... and its facts are remembered as long again, so that old ones cannot return; withdrawn links, too.
pub const FACT_MEMORY: Duration = Duration::from_secs(120);
/// A peer says again that it lives after a time between these: three chances within [`FACT_LIFE`].
pub const ALIVE_INTERVAL: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(20));
/// Neighbours compare digests of their pictures after a time between these: about every 2 s.
pub const DIGEST_INTERVAL: (Duration, Duration) =
    (Duration::from_millis(1_500), Duration::from_millis(2_500));
/// Digests in a row that may differ while facts come and go; if neither moves, two are enough: guess.
pub const DIGESTS_DIFFER_MAX: u32 = 5;
/// Digests that are waited for between two comparisons that did not help: half a minute.
pub const COMPARE_PATIENCE_MAX: u32 = 16;
/// A question that was not answered for this long is asked again: several times the longest answer on
/// a slow link.
pub const COMPARE_MAX: Duration = Duration::from_secs(10);
/// Pieces of a neighbour's summary that are answered at once, and a second: a large picture has some
/// hundred pieces, and comparing it again and again shall cost the neighbour more than us.
pub const ANSWERS_BURST: u32 = 128;
pub const ANSWERS_PER_SECOND: u32 = 8;
/// Facts with a wrong signature that one link may bring at once, and a second: two peers of one name
/// make honest neighbours disagree; each costs 50 us to see.
pub const FORGERIES_BURST: u32 = 256;
pub const FORGERIES_PER_SECOND: u32 = 8;
/// Facts of one answer, and those of one more origin: below 800 KiB, so that the send queue holds it.
pub const FACTS_PER_ANSWER: usize = 960;
/// What a peer has to say of the overlay waits this long after one of its links went down: the channels
/// that crossed it move first. On one host with twelve peers the flood of facts cost them half of the gap.
pub const DOWN_QUIET: Duration = Duration::from_millis(15);
/// Free capacity is told at most this often for a link ... (spec, decision 9)
pub const FREE_INTERVAL: Duration = Duration::from_millis(500);
/// ... and if it changed by more than this part of the usable capacity.
pub const FREE_CHANGE_PERCENT: u64 = 5;
/// Link facts of one peer: its links, and as many that it withdrew.
pub const LINK_FACTS_MAX: usize = 2 * LINKS_MAX;
/// Facts of one picture: 10,000 peers with six links each, twice over; about 60 MB.
pub const FACTS_MAX: usize = 1 << 17;
/// New facts of one origin (guess: a burst of channels on a few links) ...
pub const FACTS_PER_SECOND: u32 = 32;
/// ... and at once: a peer with all its links starts, finds facts of its earlier life, starts again.
pub const FACTS_BURST: u32 = 4 * 1_024;

// --- Links ---

/// Default time between heartbeats (spec 2.10).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(25);
/// Heartbeats in a row that may be missing before a link is dead (spec 2.10).
pub const HEARTBEATS_MISSED_MAX: u32 = 5;
/// Shortest and longest `heartbeat`: scheduling jitter below, no notice of a death above.
pub const HEARTBEAT_RANGE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_secs(10));
/// Fewest and most `heartbeats_missed`: one late packet must not cut a link.
pub const HEARTBEATS_MISSED_RANGE: (u32, u32) = (2, 100);
/// A handshake that takes longer is dropped (threat model).
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at the same time with strangers (threat model).
pub const HALF_OPEN_MAX: usize = 256;
/// ... of one network (/24 or /56): 16 networks are needed to take all of them.
pub const HALF_OPEN_PER_NETWORK_MAX: usize = 16;
/// ... of each neighbour at an address where neighbours are configured or were met.
pub const HALF_OPEN_PER_NEIGHBOUR_MAX: usize = 4;
/// Handshakes a second of one network, and of each neighbour (threat model).
pub const HANDSHAKES_PER_NETWORK: u32 = 20;
/// ... and of all strangers together: three Diffie-Hellman and a signature each. Guess: a tenth of a CPU.
pub const HANDSHAKES_PER_SECOND: u32 = 500;
/// Networks that are remembered: more than can begin a handshake in the second until one is forgotten.
pub const HANDSHAKE_NETWORKS_MAX: usize = 4_096;
/// Wait before a lost or refused link is dialled again: first and longest.
pub const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Wait after a refusal that only a person can change (wrong key, unknown peer, other version).
pub const REDIAL_REFUSED: Duration = Duration::from_secs(10);
/// A connection that lived this long was a good one: the next wait is the first of `REDIAL` again.
pub const CONNECTION_SETTLED: Duration = Duration::from_secs(5);
/// The end with the greater name dials too if no connection came within this: the other end may
/// have no address for it.
pub const DIAL_PATIENCE: Duration = Duration::from_millis(1_200);
/// The rest of a control message must follow its length within this.
pub const MESSAGE_REST_MAX: Duration = Duration::from_secs(5);
/// What a closed connection still may send (a Bye) is sent and read within this or dropped.
pub const CONNECTION_DRAIN_MAX: Duration = Duration::from_millis(500);
/// Messages of all links that wait for the control loop: 256 x 16 KiB = 4 MiB at most.
pub const ARRIVALS_MAX: usize = 256;
/// ... and of one link: a message of another link has at most this many of each flooding one in front of it.
pub const ARRIVALS_PER_LINK_MAX: usize = 8;
/// The part of the control thread that reading and handling the messages of one neighbour takes in the
/// long run. An end of a sealed channel needs 0.55 ms for keys and signatures: with a quarter 470 admissions
/// a second went over a path, with three quarters 1,100 (`perf/admission`).
pub const CONTROL_SHARE: f64 = 0.75;
/// What a message counts at least: the kernel's work for it is not seen by the thread's clock. A neighbour
/// gets 30,000 messages a second, an admission needs about ten. Without it the slowest answers beside a flood
/// of small messages took 3.5 times as long in place of 1.4 times (`perf/flood`).
pub const CONTROL_MESSAGE_COST_MIN: Duration = Duration::from_micros(25);
/// ... and so much at once: the tree of 10,000 peers in 100 pieces.
pub const CONTROL_SHARE_BURST: Duration = Duration::from_millis(50);
/// A worker tells when it has applied something; it is looked at after this in any case.
pub const APPLY_LOOK: Duration = Duration::from_millis(5);
/// Messages behind a route change leave after this even if a worker has not applied it.
pub const APPLY_MAX: Duration = Duration::from_secs(1);
/// Default time a peer that leaves waits for the channels that cross it to move.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// While it waits, it asks those that are left again this often: another path may have come free.
pub const LEAVE_ASK_AGAIN: Duration = Duration::from_millis(500);
/// Leaving (channels closed, Bye said) is over after this, whatever is still open; and then as long
/// again for the neighbours to read it.
pub const LEAVE_MAX: Duration = Duration::from_secs(2);
/// How often the service manager is told the state of a peer if it has changed; a person looks at it
/// with `systemctl status`. Signs of life come more often if its watchdog wants that.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);
/// What the service manager has no room for is kept up to this: some fifty lines.
pub const NOTIFICATION_BYTES_MAX: usize = 2_048;
/// File of learned addresses: a name and an address for each of 1,024 links.
pub const ADDRESSES_BYTES_MAX: usize = 256 << 10;
/// The same complaint about one peer is logged at most once in this time.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

// --- Rules ---

/// `[[allow]]` of one peer, each of which may be looked at for a request: a person writes them by hand.
pub const RULES_MAX: usize = 64;
/// Peers, and services, that one rule names.
pub const RULE_NAMES_MAX: usize = 1_024;
/// Peers that are shown with what they have by a rule, the largest first.
pub const RULE_USERS_SHOWN: usize = 64;

// --- Invitations ---

/// Invitations that a peer knows at the same time, used and revoked ones until they expire: an operator gives
/// them out one by one.
pub const INVITATIONS_MAX: usize = 256;
/// The file that lists them: 400 bytes each.
pub const INVITATIONS_BYTES_MAX: usize = 256 << 10;
/// Shortest and longest life of an invitation, and what it is where nobody says.
pub const INVITATION_LIFE: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(30 * 24 * 3_600));
pub const INVITATION_LIFE_DEFAULT: Duration = Duration::from_secs(3_600);
/// Addresses in one: a host has few that others can reach.
pub const INVITATION_ADDRESSES_MAX: usize = 8;
/// Characters of one behind its prefix: two long names and as many addresses are 620.
pub const INVITATION_CHARS_MAX: usize = 1_024;

// --- Reservations (spec 2.9) ---

/// Time between two REFRESH of a neighbour, before jitter of 0.5 to 1.5.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Life of a reservation without a refresh: (3 + 0.5) x 1.5 x 2 s.
pub const LEASE: Duration = Duration::from_millis(10_500);
/// A held, not yet accepted reservation lives this long.
pub const HOLD: Duration = Duration::from_secs(5);
/// Each hop waits this much less for ACCEPT than the one before it, so that the last to be silent is
/// named; 64 hops keep a third of [`HOLD`].
pub const HOLD_STEP_MS: u32 = 50;
/// A released transaction is remembered this long: a late RESERVE must not revive it.
pub const TOMBSTONE: Duration = Duration::from_secs(60);
/// Tombstones of one peer, the oldest go first: every channel may end twice within [`TOMBSTONE`].
pub const TOMBSTONES_MAX: usize = 2 * CHANNELS_MAX;
/// Transactions that a peer refreshes at once, about a millisecond of work at each hop: requests and
/// broken channels do not wait behind the leases of 10,000 others.
pub const REFRESH_AT_ONCE: usize = 4 * REFRESH_TXS_MAX;
/// The next ones follow after this.
pub const REFRESH_PAUSE: Duration = Duration::from_millis(25);
/// A relay waits this long before it passes refreshes on, so that many go in one message. Short,
/// because the waits of all hops add up: see the assertion below.
pub const REFRESH_PASS: Duration = Duration::from_millis(25);
/// Requests that stand in line at one peer, whoever asked ...
pub const WAITING_MAX: usize = 1_024;
/// ... and of one asker.
pub const WAITING_PER_ASKER: usize = 64;
/// Links that a waiting request is told of, those nearest to it first.
pub const SHORT_LINKS_MAX: usize = 24;
/// Channels named as those that have a link's room.
pub const HOLDERS_SHOWN: usize = 4;
/// Neighbours whose frames have a histogram of their own in `/metrics`: 24 lines each.
pub const METRICS_HOPS_MAX: usize = 64;
/// Reasons of drops that a peer tells of a channel: more than there are.
pub const DROPS_TOLD_MAX: usize = 64;
/// Paths that a request tries before it is answered: each refusal names another link.
pub const OPEN_TRIES: usize = 8;
/// Relays that a request steers around because their rules forbid it: a path has no more.
pub const BARRED_MAX: usize = PATH_PEERS_MAX;
/// Channels that a daemon asks for again by itself (`open --keep`).
pub const KEPT_MAX: usize = 1_024;
/// The file that lists them: names, addresses and a path of the longest, with room to spare.
pub const KEPT_BYTES_MAX: usize = 8 << 20;
/// Wait before such a channel is asked for again: doubled each time from the first to the second.
pub const KEPT_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long it may wait for room each time.
pub const KEPT_DEADLINE_MS: u64 = 60_000;
/// Idempotency keys a daemon knows: about 1 KiB each, with the answer.
pub const IDEMPOTENCY_KEYS_MAX: usize = 8_192;
/// How long after its answer a key is known: longer than anybody retries.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(600);
/// Bytes of a key: a UUID has 36.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Clients that wait for the answer to one key, besides the first.
pub const IDEMPOTENCY_CLIENTS_MAX: usize = 16;
/// Default time within which an `open` is answered.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// A moving channel is given up after this: as long as the far end keeps its side.
pub const MOVE_DEADLINE: Duration = LEASE;
/// Wait between attempts to move a channel: random between the two.
pub const MOVE_RETRY: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(150));
/// Failures that a moving channel steers around at once; then it waits and forgets them: the picture
/// will have caught up.
pub const AVOID_MAX: usize = 8;
/// Frames may be on their way on a path that was left for at least this long: many times what a hop
/// takes, and nothing that anybody waits for.
pub const DRAIN_MIN: Duration = Duration::from_millis(100);
/// ... and at most this long, whatever setting the new path up took.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Wait before a second path is looked for again for a protected channel, before jitter.
pub const PROTECT_RETRY: Duration = Duration::from_secs(1);
/// Paths of one channel at the end that offers the service: in use, left, standby, and one more.
pub const ATTEMPTS_MAX: usize = 4;
/// Changes of the picture within this lead to one look for second paths.
pub const SECOND_WAIT: Duration = Duration::from_millis(200);
/// Channels whose second path is looked for in one turn of the control thread: some 50 us each.
pub const SECONDS_PER_TURN: usize = 16;
/// Between two such turns: neighbours and local clients go first.
pub const SECOND_PAUSE: Duration = Duration::from_millis(2);
/// FINISH is repeated at this interval until the far end acknowledges it.
pub const FINISH_RETRY: Duration = Duration::from_millis(200);
/// Routed questions (services, verify) are answered within this or reported as unanswered.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(2);
/// Questions of one `verify` that are under way at the same time: guess.
pub const QUESTIONS_MAX: usize = 32;
/// Requests that wait for routed answers at the same time: one a client.
pub const QUERIES_MAX: usize = CLIENTS_MAX;
/// `verify` is answered within this, with those that did not answer listed: five silent neighbours
/// one behind the other, or far more beside each other.
pub const COLLECT_DEADLINE: Duration = Duration::from_secs(10);

// --- Measuring a link ---

/// Longest measurement of a link, both ways together.
pub const MEASURE_MAX: Duration = Duration::from_secs(5);
/// Shortest: a handful of trains each way.
pub const MEASURE_MIN: Duration = Duration::from_secs(1);
/// The neighbour answers that it is ready within this, and forgets a measurement this long after its
/// longest time.
pub const MEASURE_GRACE: Duration = Duration::from_secs(1);
/// No rate above this many times the configured capacity is tried: who wants more raises it first.
pub const MEASURE_TIMES_MAX: u64 = 16;
/// A probe as a UDP payload: header and what its MAC covers, and what Ethernet carries over IPv4.
pub const PROBE_BYTES: std::ops::RangeInclusive<u16> = 64..=1_472;
/// Time of a train: long against a batch, short against what a person waits, and 2 % of a second of
/// overload for channels that share the link.
pub const TRAIN_SPAN: Duration = Duration::from_millis(40);
/// Time of the train that confirms a rate: a bucket of 32 KiB is a tenth of it at 20 Mbit/s.
pub const TRAIN_LONG: Duration = Duration::from_millis(160);
/// Fewest and most probes of a train; the most are 160 ms at 10 Gbit/s.
pub const TRAIN_FRAMES_MIN: u32 = 20;
pub const TRAIN_FRAMES_MAX: u32 = 1 << 17;
/// Probes get smaller before a train gets shorter than this.
pub const TRAIN_FRAMES_WANTED: u32 = 200;
/// Fewer in the tail of a train say nothing about its rate.
pub const TRAIN_TAIL_FRAMES_MIN: u32 = 8;
/// A train is carried with at most so many of a thousand probes lost ...
pub const TRAIN_LOSS_PER_MILLE: u64 = 5;
/// ... and at least this part of its rate behind the link.
pub const TRAIN_PACE_PERCENT: u64 = 95;
/// ... a little less is tried again, so often: a host that was busy for 4 ms does as much.
pub const TRAIN_DOUBT_PERCENT: u64 = 80;
pub const TRAIN_AGAIN_MAX: u32 = 2;
/// Wait between a train and the count: as long as the train took, within this.
pub const TRAIN_SETTLE: (Duration, Duration) =
    (Duration::from_millis(15), Duration::from_millis(100));
/// Longest wait for a buffer on the way to let out what an overload left in it.
pub const TRAIN_DRAIN_MAX: Duration = Duration::from_millis(500);
/// Lowest rate that is tried.
pub const TRAIN_RATE_BPS_MIN: u64 = 64_000;
/// Trains of one way: twice what the slowest search takes.
pub const TRAINS_MAX: usize = 64;
/// Probes a worker sends in one turn, about 50 us of its time: frames go first.
pub const PROBES_PER_TURN: u32 = 16;

// --- Local clients ---

/// One JSON line of a local client.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Clients connected to the daemon's local socket at the same time.
pub const CLIENTS_MAX: usize = 128;
/// A client must send its request line within this.
pub const CLIENT_REQUEST_MAX: Duration = Duration::from_secs(10);
/// How often a client that ended its writing is looked after: it may still wait for its answer.
pub const CLIENT_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Lines that wait for one client; a slower one misses events and is told.
pub const CLIENT_LINES_MAX: usize = 256;
/// Longest deadline of an `open` (spec 2.9, queue).
pub const OPEN_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// One answer line of a daemon: the tree of 10,000 peers is about 3 MB, so room for it many times over.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// A daemon answers what it knows itself within this; questions to other peers add their deadline.
pub const CLIENT_ANSWER_MAX: Duration = Duration::from_secs(10);

// --- Web API ---

/// Connections of one listener at the same time. More, and the one that has sent no complete request for
/// the longest time is closed.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Connections the kernel may hold until the listener takes them: a burst of a thousand.
pub const HTTP_BACKLOG: i32 = 1_024;
/// A request, head and body, must be complete within this.
pub const HTTP_REQUEST_TIME: Duration = Duration::from_secs(5);
/// Head of a request: some times what a browser sends.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// Body of a request: as much as the local socket takes.
pub const HTTP_BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX;
/// Clients of the local socket that the web API is at the same time, for questions ...
pub const HTTP_ASKS_MAX: usize = 32;
/// ... and for requests that stand in line; together well below [`CLIENTS_MAX`], so that the command line
/// always gets in.
pub const HTTP_WAITS_MAX: usize = 32;
/// A question waits this long for one of those places.
pub const HTTP_PLACE_WAIT: Duration = Duration::from_secs(1);
/// Final answers of requests that stood in line, kept to be fetched; older ones are forgotten.
pub const HTTP_ANSWERS_MAX: usize = 256;
/// Clients of event streams.
pub const HTTP_STREAMS_MAX: usize = 32;
/// Messages that wait for one of them; a slower one is let go.
pub const HTTP_STREAM_MESSAGES_MAX: usize = 256;
/// How often a page gets everything anew.
pub const HTTP_LIVE_INTERVAL: Duration = Duration::from_secs(1);
/// What changes is gathered for this long before it is sent.
pub const HTTP_LIVE_SETTLE: Duration = Duration::from_millis(100);
/// Asking for everything may take one part of so many of the time.
pub const HTTP_LIVE_SHARE: u32 = 5;
/// Refusals of strangers are logged once in this time, with their number.
pub const HTTP_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// The API's thread ends within this when the daemon stops.
pub const HTTP_STOP_MAX: Duration = Duration::from_secs(1);
/// `[api] base_path` without its outer slashes, names in `hosts`, and the length of one.
pub const HTTP_BASE_PATH_MAX: usize = 128;
pub const HTTP_HOSTS_MAX: usize = 16;
pub const HTTP_HOST_BYTES_MAX: usize = 260;
/// Characters of the token: 256 bits.
pub const HTTP_TOKEN_CHARS: usize = 64;
/// Descriptors of the web API: both listeners with their connections, its clients, its runtime.
pub const HTTP_FILES: u64 =
    2 * HTTP_CONNECTIONS_MAX as u64 + 2 * (HTTP_ASKS_MAX + HTTP_WAITS_MAX) as u64 + 16;

// --- Open files ---

/// Descriptors of a process besides what follows: standard streams, signals, runtime, listeners, state.
pub const PROCESS_FILES: u64 = 64;
/// ... of a worker: its socket, its ring, what wakes it up.
pub const WORKER_FILES: u64 = 8;
/// ... of a link: a connection, and the one that replaces it.
pub const LINK_FILES: u64 = 2;

// --- Histograms ---

/// The kernel is asked for receive times this long of every ...
pub const INSIDE_PERIOD_US_ON: u64 = 131_000;
/// ... period: an eighth of the time. Not a second, so that what happens every second is seen.
pub const INSIDE_PERIOD_US: u64 = 8 * INSIDE_PERIOD_US_ON + 1_000;
/// Frames for which one more clock reading (about 30 ns) is cheap enough: 2 ns each.
pub const INSIDE_FRAMES: usize = 16;
/// Where fewer frames come, one more clock reading in this time is: a fraction of a promille.
pub const INSIDE_INTERVAL: Duration = Duration::from_millis(1);

/// A least one-way time above this is taken for clocks that differ (A23).
pub const ONE_WAY_AGREED_US: i32 = 1_000_000;
/// Watches (`spanway latency --watch`) of one peer at the same time: 352 KiB each at every worker.
pub const WATCHES_MAX: usize = 16;
/// Longest watch: a channel of a million frames a second still counts far below 2^64.
pub const WATCH_MAX: Duration = Duration::from_secs(3_600);
/// A watch ends by itself this long after the time it was asked for: the last reading comes first.
pub const WATCH_TAIL: Duration = Duration::from_secs(5);

// --- `spanway send` and `spanway recv` ---

/// Datagrams that are due within this are sent together; sleeps are not finer.
pub const PACE_BATCH: Duration = Duration::from_millis(1);
/// A sender that was held up longer than this does not catch up: a burst could overflow a buffer.
pub const PACE_LATE_MAX: Duration = Duration::from_millis(10);
/// `send` gives up on frames the daemon has not counted when its counter stood still for this.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(1);
/// After FINISH, `recv` waits this long for frames that are still under way.
pub const RECV_TAIL_MAX: Duration = Duration::from_secs(1);
/// ... and `send` this long until it closes the channel, if the far end does not do that before.
pub const SEND_TAIL_MAX: Duration = Duration::from_secs(1);
/// While a stream runs, `recv` holds later frames back this long for a missing one.
pub const RECV_GAP_MAX: Duration = Duration::from_millis(200);
/// Bytes `recv` keeps while standard output is slow, and as many again behind a missing frame.
pub const RECV_HELD_BYTES_MAX: usize = 64 << 20;
/// Path of a Unix socket: the kernel's 108 bytes with the NUL at its end.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

// --- `spanway forward` ---

/// Clients of one proxy by default: a socket each, three times the largest load of the test plan, and
/// still within the 4,096 open files that older systems allow.
pub const PROXY_CLIENTS_DEFAULT: u32 = 3_000;
/// Most clients of one proxy: each needs a port of its own towards the server.
pub const PROXY_CLIENTS_MAX: u32 = 60_000;
/// Silence in both directions after which a client's socket is closed.
pub const PROXY_IDLE_DEFAULT: Duration = Duration::from_secs(60);
/// Clients a worker lets go between two batches: closing a socket costs some 10 us, and datagrams wait.
pub const PROXY_EXPIRED_PER_TURN: usize = 32;
/// Descriptors of a proxy besides those of its clients.
pub const PROXY_FILES: u64 = PROCESS_FILES + WORKER_FILES * WORKERS_MAX as u64;

const _: () = {
    assert!(2 * (HTTP_ASKS_MAX + HTTP_WAITS_MAX) <= CLIENTS_MAX);
    assert!(EDGES_PER_PIECE * (2 * (NAME_BYTES_MAX + 1) + 8) + 512 <= MESSAGE_BYTES_MAX);
    assert!(
        (FACTS_PER_ANSWER + LINK_FACTS_MAX) * (2 * (NAME_BYTES_MAX + 1) + 128)
            < SEND_QUEUE_BYTES_MAX
    );
    assert!(FACT_MEMORY.as_millis() > FACT_LIFE.as_millis());
    assert!(FACT_LIFE.as_millis() >= 3 * ALIVE_INTERVAL.1.as_millis());
    assert!(LINKS_MAX < u32::MAX as usize / 4);
    assert!(FACTS_PER_MESSAGE * (2 * (NAME_BYTES_MAX + 1) + 128) + 512 <= MESSAGE_BYTES_MAX);
    assert!(ORIGINS_PER_SUMMARY * (NAME_BYTES_MAX + 1 + 16) + 256 <= MESSAGE_BYTES_MAX);
    assert!(REFRESH_TXS_MAX * (NAME_BYTES_MAX + 1 + 20) + 512 <= MESSAGE_BYTES_MAX);
    assert!((PATH_PEERS_MAX + LINKS_PER_PIECE) * (NAME_BYTES_MAX + 10) + 512 <= MESSAGE_BYTES_MAX);
    assert!((PATH_PEERS_MAX + SERVICES_MAX) * (NAME_BYTES_MAX + 3) + 512 <= MESSAGE_BYTES_MAX);
    assert!(PATH_PEERS_MAX * (NAME_BYTES_MAX + 1) + DETAIL_BYTES_MAX + 512 <= MESSAGE_BYTES_MAX);
    assert!(
        SHORT_LINKS_MAX * (HOLDERS_SHOWN + 1) * (NAME_BYTES_MAX + 17)
            + SHORT_LINKS_MAX * (2 * (NAME_BYTES_MAX + 1) + 16)
            + 512
            <= MESSAGE_BYTES_MAX
    );
    assert!(PATH_PEERS_MAX <= HOP_LIMIT_START as usize);
    assert!(WORKERS_MAX <= 256 && PORTS_PER_PEER as usize <= WORKERS_MAX);
    assert!(LEASE.as_millis() > REFRESH_INTERVAL.as_millis() * 3);
    // Ends refresh every 1.5 intervals after the last of their channels had its turn, and every relay of
    // the longest path adds its wait.
    assert!(
        LEASE.as_millis()
            > REFRESH_INTERVAL.as_millis() * 3 / 2
                + REFRESH_PAUSE.as_millis() * (CHANNELS_MAX / REFRESH_AT_ONCE + 1) as u128
                + REFRESH_PASS.as_millis() * PATH_PEERS_MAX as u128
    );
    assert!(HOLD.as_millis() >= OPEN_DEADLINE.as_millis());
    assert!(FACTS_BURST as usize >= 4 * LINKS_MAX);
    assert!(MTU_MIN <= MTU_DEFAULT);
    assert!(POLICE_BURST_BYTES_MIN > u16::MAX as u64);
    assert!(LENT_MAX <= BUFFERS_PER_WORKER);
    assert!(BLOCKS_MAX as u32 == 3 * MERGE_WORKER_FRAMES_MAX);
    assert!(BLOCKS_MAX as usize == 3 * SHAPE_WORKER_FRAMES_MAX);
    assert!(3 * BLOCK_BYTES >= MTU_DEFAULT as usize);
    assert!(BATCH_MAX < BUFFERS_PER_WORKER as usize && BUFFERS_PER_WORKER.is_power_of_two());
    assert!(RECEIVE_MAX <= BATCH_MAX);
    assert!(ARRIVALS_PER_LINK_MAX * 8 <= ARRIVALS_MAX);
    assert!(HALF_OPEN_PER_NETWORK_MAX * 16 <= HALF_OPEN_MAX);
    assert!(HANDSHAKE_NETWORKS_MAX > 2 * HANDSHAKES_PER_SECOND as usize);
    assert!(RUNS_MAX.is_power_of_two() && RUNS_MAX <= u16::MAX as usize);
    assert!(RUN_BYTES_MAX as usize <= DATAGRAM_BYTES_MAX);
    assert!(MESSAGE_BYTES_MAX < SEND_QUEUE_BYTES_MAX);
    // A path, links and steps in one message; names have a byte for their length.
    assert!(
        PATH_PEERS_MAX * (NAME_BYTES_MAX + 1)
            + LINKS_PER_PIECE * (NAME_BYTES_MAX + 10)
            + STEPS_PER_PIECE * (3 * (NAME_BYTES_MAX + 1) + 16)
            + 256
            <= MESSAGE_BYTES_MAX
    );
    assert!(PEERS_MAX * (2 * (NAME_BYTES_MAX + 1) + 8) + (128 << 10) <= SEND_QUEUE_BYTES_MAX);
};
