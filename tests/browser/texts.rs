//! What a hostile daemon or peer might be called, and an overlay of such names.

use serde_json::{Value, json};

use super::common::seeds;
use super::stand_in::Says;

/// Each of these would set `window.hurt` if a page made elements or code of it.
pub(crate) const HOSTILE: &[&str] = &[
    "<img src=x onerror=\"window.hurt=1\">",
    "<script>window.hurt=1</script>",
    "\"><svg onload=window.hurt=1>",
    "javascript:window.hurt=1",
    "' onmouseover='window.hurt=1",
    "{{constructor.constructor('window.hurt=1')()}}",
    "</textarea><iframe srcdoc='<script>top.hurt=1</script>'>",
    "&lt;img src=x onerror=window.hurt=1&gt;",
    "__proto__",
    "constructor",
    "a\u{202e}b\u{0}c\u{7}d",
    "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}",
];

/// An overlay in which every text is one of these.
pub(crate) fn overlay_of(texts: &[String]) -> Says {
    let text = |n: usize| texts[n % texts.len()].clone();
    let all = 0..texts.len();
    let peers: Vec<Value> = all.clone().map(|n| peer(&text(n), n % 4 == 3)).collect();
    let links: Vec<Value> =
        (1..texts.len()).map(|n| link(&text(0), &text(n), n % 2 == 0)).collect();
    let own: Vec<Value> = (1..texts.len())
        .map(|n| {
            json!({"peer": text(n), "state": text(n + 1), "capacity_bps": 1_000_000,
                "free_out_bps": 1, "free_in_bps": 1, "tree": false})
        })
        .collect();
    let status = json!({"name": text(0), "version": text(1), "session": text(2), "backend": text(3),
        "uptime_ms": 1000, "tree_complete": true, "peers": 3, "links_up": 1, "links": 2, "channels": 2,
        "warnings": texts, "computation": null});
    let event = json!({"at_ms": 1, "event": text(1), "text": texts.join(" ")});
    let rows = |name: &String| json!({"name": name, "state": "reachable"});
    let step = |n: usize| {
        json!({"at_us": 10 * n, "what": text(n), "level": n, "fragment": [text(0), text(1)],
            "neighbour": text(2)})
    };
    let steps = [step(1), step(2), step(3)];
    let channels: Vec<Value> = all.map(|n| channel(&text, n)).collect();
    let mut says = Says::default();
    for row in &channels {
        let route = format!("channels/{}/latency", encoded(&row["id"]));
        says.routes.insert(route, latency(&text));
    }
    let services = json!([{"name": text(1), "source": true, "busy": true}]);
    for name in texts {
        says.routes.insert(format!("peers/{}/services", encoded(&json!(name))), services.clone());
    }
    says.routes.insert("peers".to_owned(), texts.iter().map(rows).collect());
    let course = json!({text(0): {"session": "1@x", "complete": true, "steps": steps}});
    says.routes.insert("computation".to_owned(), course);
    let live = [
        ("status", status),
        ("links", json!(own)),
        ("graph", graph(&peers, &links)),
        ("channels", json!(channels)),
        ("queue", queue(texts, &text)),
        ("ledger", json!({"adds_up": true})),
        ("event", event),
    ];
    says.live = live.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    says
}

pub(crate) fn peer(name: &str, leaving: bool) -> Value {
    json!({"name": name, "age_ms": 1, "leaving": leaving, "egress_bps": null, "ingress_bps": null})
}

pub(crate) fn link(a: &str, b: &str, tree: bool) -> Value {
    json!({"a": a, "b": b, "capacity_bps": 1_000_000, "free_ab_bps": 400_000, "free_ba_bps": 1_000_000,
        "max_payload_bytes": 1400, "tree": tree, "age_ms": 1})
}

fn channel(text: &dyn Fn(usize) -> String, n: usize) -> Value {
    json!({"id": format!("{}:{n}", text(n)), "name": text(n + 1), "peer": text(n + 2),
        "service": text(n + 3), "role": if n.is_multiple_of(3) { "relay" } else { "source" }, "state": text(n + 4),
        "path": [text(0), text(1), text(2)], "standby": [text(0), text(2)], "second": null,
        "bandwidth_bps": 1_000_000, "bandwidth_back_bps": 64_000, "payload_bps": 900_000,
        "max_payload_bytes": 1400, "listen": text(n + 5), "deliver": text(n + 6), "tx_frames": n,
        "rx_frames": n, "entered_bytes": n, "delivered_bytes": n, "lost_frames": 0,
        "dropped": {text(n + 7): 7}, "offered_bps": 1, "entry_bps": 2, "shape": true, "keep": true})
}

fn latency(text: &dyn Fn(usize) -> String) -> Value {
    let times = json!({"count": 3, "min": 1, "p50": 1, "p90": 2, "p99": 3, "p999": 3, "max": 3,
        "buckets": [[1, 2], [3, 1]]});
    json!({"channel": text(0), "peer": text(1), "resolution": "log2", "clocks_differ": true,
        "one_way_us": times, "hops": [{"peer": text(2), "from": text(3), "inside_ns": times}]})
}

fn queue(texts: &[String], text: &dyn Fn(usize) -> String) -> Value {
    let short = json!([{"at": text(1), "towards": text(2), "budget": text(3), "asked_bps": 5, "free_bps": 1,
        "ahead": 1, "before": text(4), "holders": texts}]);
    json!([{"id": text(2), "name": text(3), "peer": text(4), "service": text(5), "bandwidth_bps": 1,
        "bandwidth_back_bps": 1, "path": texts, "position": 1, "waited_ms": 1, "left_ms": 9, "short": short}])
}

pub(crate) fn graph(peers: &[Value], links: &[Value]) -> Value {
    json!({"digest": "0", "version": 1, "peers": peers, "links": links})
}

/// As `encodeURIComponent` writes it.
fn encoded(value: &Value) -> String {
    let bytes = value.as_str().unwrap_or_default().bytes();
    bytes
        .map(|byte| match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'!'
            | b'~'
            | b'*'
            | b'\''
            | b'('
            | b')' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Pieces of markup, code and strange characters in random order, the same for the same seed.
pub(crate) fn made_up(seed: u64) -> Vec<String> {
    const PIECES: &[&str] = &[
        "<",
        ">",
        "\"",
        "'",
        "`",
        "=",
        "/",
        "&",
        ";",
        "#",
        "%00",
        "${",
        "}}",
        "{{",
        "--",
        "<!--",
        "]]>",
        "script",
        "img src=x ",
        "onerror=window.hurt=1",
        "svg",
        "style=",
        "window.hurt=1",
        "\\",
        "\n",
        "\u{2028}",
        "\u{feff}",
        "\u{202e}",
        "\u{0}",
        "\u{1f600}",
        "e\u{301}",
        "data: x",
        "event: status",
        "a",
        "9",
    ];
    let mut state = seed;
    let mut next = |below: usize| {
        // The generator of Knuth's MMIX; the upper bits are the better ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 40).unwrap_or(0) % below
    };
    (0..12).map(|_| (0..1 + next(30)).map(|_| PIECES[next(PIECES.len())]).collect()).collect()
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    seeds::fresh(1).0
}
